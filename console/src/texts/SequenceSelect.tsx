import { useRows } from "../api/useRows";
import { goToText, type Sequence } from "./where";

/** One sequence of an example that has several: the windows of a long text, the prompts of a pair, the two sides of a model. */
export function SequenceSelect({ of }: { of: Sequence }) {
  const { data } = useRows("sequences", { run: of.run, example: of.example });
  if (!data || data.length < 2) return null;
  const rows = Array.from({ length: data.length }, (_, row) => row);
  const main = data.text(0, "side");
  const sides = new Set(rows.map((row) => data.text(row, "side")));
  const chosen = rows.find((row) => data.number(row, "seq") === of.seq && data.text(row, "side") === (of.side || main)) ?? 0;
  return (
    <label className="field">
      <span className="muted">sequence</span>
      <select
        value={chosen}
        onChange={(event) => {
          const row = Number(event.target.value);
          goToText(of.run, of.example, data.number(row, "seq") ?? 0, sides.size > 1 ? data.text(row, "side") : "");
        }}
      >
        {rows.map((row) => (
          <option key={row} value={row}>
            {data.number(row, "seq")}
            {sides.size > 1 ? ` ${data.text(row, "side")}` : ""} · {data.number(row, "n_tokens")} tokens
            {data.text(row, "text") ? ` · ${data.text(row, "text").slice(0, 40)}` : ""}
          </option>
        ))}
      </select>
    </label>
  );
}
