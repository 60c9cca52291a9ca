import { cssOf, palette } from "../../colour/palette";
import { scheme } from "../../env/scheme";
import { useStore } from "../../env/store";
import { DASHES, stepOfSign } from "./strokes";

/** What lines and boxes of a circuit mean. */
export function GraphLegend({ metric }: { metric: string }) {
  const colours = palette("difference", useStore(scheme));
  return (
    <span className="graph-legend">
      <Line colour={cssOf(colours, stepOfSign(-1))} /> helps {metric} (score below 0)
      <Line colour={cssOf(colours, stepOfSign(1))} /> works against it
      <span className="muted">width: |score|;</span>
      {(["q", "k", "v"] as const).map((port) => (
        <span key={port}>
          <Line colour="var(--ink-2)" dash={DASHES[port]} /> into {port}
        </span>
      ))}
    </span>
  );
}

function Line({ colour, dash }: { colour: string; dash?: string | undefined }) {
  return (
    <svg width={26} height={8} aria-hidden="true">
      <line x1={1} x2={25} y1={4} y2={4} stroke={colour} strokeWidth={2} strokeDasharray={dash} />
    </svg>
  );
}
