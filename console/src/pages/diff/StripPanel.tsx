import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { Choice } from "../../components/Choice";
import { Legend } from "../../components/Legend";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Strip } from "../../components/Strip";
import { useKey } from "../../keys/keys";
import { SelectedHere } from "../../selection/SelectedHere";
import { useMarked } from "../../texts/useMarked";
import { update } from "../../url/place";
import { AlignedStrip } from "./AlignedStrip";
import { measuresOf, totals, type Differences, type Measure } from "./difference";
import { SegmentTip } from "./SegmentTip";
import { SequenceChoice } from "./SequenceChoice";

interface Props {
  a: string;
  b: string;
  example: string;
  seq: number;
  rows: Rows;
  measure: Measure;
  shown: Differences;
  chosen: number | undefined;
  onChoose: (segment: number) => void;
}

interface Outside {
  tokens: number;
  loss: number | null;
}

/** The text, coloured by the difference of two runs; under it how each cut it, where they cut it differently. */
export function StripPanel({ a, b, example, seq, rows, measure, shown, chosen, onChoose }: Props) {
  const same = rows.notes["by"] === "tokens";
  const tokens = useMemo(() => Array.from({ length: rows.length }, (_, row) => ({ text: rows.text(row, "text"), role: "" as const })), [rows]);
  const marked = useMarked({ run: a, example, seq, side: "dec" });
  const segments = useMemo(() => segmentsOf(rows, marked), [rows, marked]);
  const step = (by: number) => onChoose(Math.min(Math.max((chosen ?? 0) + by, 0), rows.length - 1));
  useKey("ArrowRight", "the next token", () => step(1), rows.length > 0);
  useKey("ArrowLeft", "the token before", () => step(-1), rows.length > 0);
  const common = {
    values: shown.values,
    scale: shown.scale,
    label: `The text of ${example}, coloured by ${shown.label}`,
    chosen,
    marked: segments,
    tell: (segment: number) => <SegmentTip rows={rows} segment={segment} a={a} b={b} />,
    onChoose,
  };
  return (
    <Panel
      title="Text"
      name="difference by token"
      main
      className="grow"
      note={
        <>
          {rows.length.toLocaleString("en-US")} {same ? "tokens" : "spans"} <SelectedHere place={{ run_id: a, example_id: example, seq }} />
        </>
      }
      rows={() => rows}
      ways={{
        sql: rows.notes.sql?.[0],
        python: `compared_sequence(asker(wh), wh.run("${a}"), wh.run("${b}"), "${example}", ${seq}).rows.to_pandas()`,
        command: `traces sql --query disagreements --set run=${a} --set other_run=${b}`,
      }}
      controls={
        <>
          <Legend scale={shown.scale} label={shown.label} ends={shown.ends} />
          <SequenceChoice a={a} b={b} example={example} seq={seq} />
          <Choice<Measure> label="colour" of={measuresOf(rows)} chosen={measure} onChoose={(next) => update({ color: next }, "replace")} />
        </>
      }
    >
      <p className="diff-note muted">{told(rows, a, b)}</p>
      {rows.length === 0 ? null : same ? <Strip tokens={tokens} {...common} /> : <AlignedStrip rows={rows} {...common} />}
    </Panel>
  );
}

function segmentsOf(rows: Rows, marked: ReadonlySet<number>): Set<number> {
  const found = new Set<number>();
  if (marked.size === 0) return found;
  for (let row = 0; row < rows.length; row += 1) {
    if (Array.from(rows.get(row, "a_pos") as ArrayLike<number>).some((pos) => marked.has(pos))) found.add(row);
  }
  return found;
}

/** What the text costs both together, and what could not be compared. */
function told(rows: Rows, a: string, b: string): string {
  const all = totals(rows);
  const unit = rows.notes["by"] === "tokens" ? "tokens" : "spans of characters, the smallest that both tokenizers share,";
  const sums = `On the ${all.segments.toLocaleString("en-US")} ${unit} that both predict: ${a} ${inShort(all.a, 5)} nats, ${b} ${inShort(all.b, 5)} nats, difference ${inShort(all.a - all.b)}.`;
  const bits = rows.notes["by"] === "spans" && all.bytes > 0 ? ` Bits a byte: ${inShort(all.a / Math.LN2 / all.bytes)} and ${inShort(all.b / Math.LN2 / all.bytes)}.` : "";
  const common = rows.notes["common_chars"];
  const texts = typeof common === "number" ? ` The two texts differ after ${common.toLocaleString("en-US")} characters; what they have in common is compared.` : "";
  const outside = rows.notes["outside"] as Record<string, Outside> | undefined;
  const left = [
    [a, outside?.["a"]],
    [b, outside?.["b"]],
  ] as const;
  const more = left.flatMap(([run, of]) => (of && of.tokens > 0 ? [`${of.tokens.toLocaleString("en-US")} of ${run}${of.loss === null ? "" : ` (${inShort(of.loss)} nats)`}`] : []));
  const compared = typeof rows.notes["comparison"] === "string" ? ` KL is of ${rows.notes["comparison"]}.` : ` For KL by token: traces compare ${a} ${b}`;
  return `${sums}${bits}${texts}${more.length > 0 ? ` Not compared, since only one run read them there: ${more.join(", ")} tokens.` : ""}${compared}`;
}
