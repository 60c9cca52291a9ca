import { useRows } from "../../api/useRows";
import { withParams } from "../../url/codec";
import { currentPlace, go } from "../../url/place";

/** Which sequence of an example is compared, where the first run has several: the windows of a long text, the prompts of a pair. */
export function SequenceChoice({ a, b, example, seq }: { a: string; b: string; example: string; seq: number }) {
  const { data } = useRows("sequences", { run: a, example });
  const rows = data ? Array.from({ length: data.length }, (_, row) => row).filter((row) => data.text(row, "side") === "dec") : [];
  if (!data || rows.length < 2) return null;
  return (
    <label className="field">
      <span className="muted">sequence</span>
      <select value={seq} onChange={(event) => go(withParams({ ...currentPlace(), parts: [a, b, example, event.target.value] }, { pos: undefined }))}>
        {rows.map((row) => (
          <option key={row} value={data.number(row, "seq") ?? 0}>
            {data.number(row, "seq")} · {data.number(row, "n_tokens")} tokens
          </option>
        ))}
      </select>
    </label>
  );
}
