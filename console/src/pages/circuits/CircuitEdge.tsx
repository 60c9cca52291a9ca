import type { Rows } from "../../api/rows";
import { cssOf, type Palette } from "../../colour/palette";
import { Facts } from "../../components/Facts";
import { inShort } from "../../components/numbers";
import { hideTip, showTip } from "../../components/tip";
import { edgePath, type Layout } from "./layout";
import { DASHES, stepOfSign } from "./strokes";

interface Props {
  rows: Rows;
  row: number;
  /** The nodes that its sink feeds. */
  into: readonly string[];
  layout: Layout;
  colours: Palette;
  /** The largest |score| of the picture. */
  most: number;
  /** The chosen node: edges that do not touch it step back. */
  chosen: string | undefined;
}

/** An edge: its width is the size of its score, its colour the sign, its dashes the port. One into a shared key or value leads to each head. */
export function CircuitEdge({ rows, row, into, layout, colours, most, chosen }: Props) {
  const source = rows.text(row, "source");
  const from = layout.nodes.get(source);
  const score = rows.number(row, "score") ?? 0;
  const part = Math.abs(score) / most;
  if (!from) return null;
  return into.map((sink) => {
    const to = layout.nodes.get(sink);
    const touches = chosen === undefined || source === chosen || sink === chosen;
    return to ? (
      <path
        key={sink}
        className="edge"
        data-edge={`${source} ${sink}`}
        d={edgePath(from, to)}
        stroke={cssOf(colours, stepOfSign(score))}
        strokeWidth={0.6 + 4 * Math.sqrt(part)}
        strokeDasharray={DASHES[rows.text(row, "port")]}
        opacity={!touches ? 0.06 : chosen === undefined ? 0.35 + 0.55 * Math.sqrt(part) : 0.9}
        onPointerMove={(event) => showTip(event, <EdgeTip rows={rows} row={row} />)}
        onPointerLeave={hideTip}
      />
    ) : null;
  });
}

function EdgeTip({ rows, row }: { rows: Rows; row: number }) {
  const number = (name: string) => rows.number(row, name);
  return (
    <Facts
      of={[
        ["edge", `${rows.text(row, "source")} → ${rows.text(row, "sink")}`],
        ["score", inShort(number("score"))],
        ...(number("low") === null ? [] : [["95 % interval", `${inShort(number("low"))} to ${inShort(number("high"))}`] as const]),
        ["rank", inShort(number("rank"))],
        ...(number("selection_frequency") === null ? [] : [["selection frequency", inShort(number("selection_frequency"))] as const]),
        ...(number("exact_effect") === null ? [] : [["exact effect", inShort(number("exact_effect"))] as const]),
      ]}
    />
  );
}
