import type { Rows } from "../../api/rows";
import { visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { TopK } from "../../components/TopK";
import { guesses } from "../../texts/tokens";
import { formatPlace } from "../../url/codec";
import { SegmentTable } from "./SegmentTip";

interface Props {
  a: string;
  b: string;
  example: string;
  seq: number;
  rows: Rows;
  segment: number;
}

/** One place of the text: what both runs predicted there, and the way to the text of each. */
export function SegmentPanel({ a, b, example, seq, rows, segment }: Props) {
  const sides = [
    ["a", a],
    ["b", b],
  ] as const;
  return (
    <Panel title={<code>{visible(rows.text(segment, "text"))}</code>} name="chosen token" className="diff-chosen" note={`pos ${[...new Set([positions(rows, segment, "a"), positions(rows, segment, "b")])].join(" and ")}`}>
      <div className="padded">
        <SegmentTable rows={rows} segment={segment} a={a} b={b} />
        <div className="diff-guesses">
          {sides.map(([side, run]) => {
            const tokens = Array.from(rows.get(segment, `${side}_tokens`) as ArrayLike<string>);
            const pos = Array.from(rows.get(segment, `${side}_pos`) as ArrayLike<number>)[0] ?? 0;
            return (
              <section key={side}>
                <h3>
                  <a href={formatPlace({ page: "text", parts: [run, example, String(seq)], params: { pos: String(pos) } })}>{run}</a>
                  {tokens.length > 1 ? <span className="muted"> the first of {tokens.length} tokens</span> : null}
                </h3>
                <TopK guesses={guesses(rows.get(segment, `${side}_topk_tokens`), rows.get(segment, `${side}_topk_probs`)).slice(0, 8)} actual={tokens[0]} />
              </section>
            );
          })}
        </div>
      </div>
    </Panel>
  );
}

function positions(rows: Rows, segment: number, side: "a" | "b"): string {
  const found = Array.from(rows.get(segment, `${side}_pos`) as ArrayLike<number>);
  return found.length > 1 ? `${found[0] ?? ""}–${found.at(-1) ?? ""}` : String(found[0] ?? "");
}
