import { inShort } from "./numbers";
import { hideTip, showTip } from "./tip";
import { useSize } from "./useSize";

/** How values are distributed, as the server counts them: one edge more than bins. */
export interface Distribution {
  edges: number[];
  counts: number[];
  n: number;
  missing: number;
  mean: number | null;
  min: number | null;
  max: number | null;
}

interface Props {
  told: Distribution;
  /** What the values are. */
  label: string;
  unit?: string;
  /** What has the values: sequences, tokens. */
  things: string;
  /** Where the bar that is kept begins. */
  low?: number | undefined;
  /** What a click on a bar does; the last one has no end. */
  onChoose?: (from: number, to: number | undefined) => void;
}

const HEIGHT = 96;

/** How values are distributed, in bars. */
export function Bars({ told, label, unit = "", things, low, onChoose }: Props) {
  const [box, { width }] = useSize<HTMLDivElement>();
  const most = Math.max(...told.counts);
  const bar = width / told.counts.length;
  return (
    <div ref={box} className="bars padded">
      <svg width={width} height={HEIGHT + 16} role="img" aria-label={`${label} in ${told.counts.length} bins; the largest has ${most} ${things}`}>
        {told.counts.map((count, place) => {
          const height = count === 0 ? 0 : Math.max(1, (count / most) * HEIGHT);
          const [from, to] = [told.edges[place] ?? 0, told.edges[place + 1] ?? 0];
          const last = place === told.counts.length - 1;
          return (
            <g
              key={place}
              className={onChoose ? "clickable" : undefined}
              onPointerMove={(event) => showTip(event, `${inShort(from)} to ${inShort(to)}: ${count.toLocaleString("en-US")} of ${told.n.toLocaleString("en-US")} ${things}`)}
              onPointerLeave={hideTip}
              onClick={() => onChoose?.(from, last ? undefined : to)}
            >
              <rect className="hit" x={place * bar} width={bar} y={0} height={HEIGHT} />
              <rect x={place * bar + 0.5} width={Math.max(bar - 1, 0.5)} y={HEIGHT - height} height={height} className={low === from ? "bar kept" : "bar"} data-count={count} />
            </g>
          );
        })}
        <line x1={0} x2={width} y1={HEIGHT} y2={HEIGHT} className="axis" />
        <text x={0} y={HEIGHT + 13}>
          {inShort(told.edges[0])}
        </text>
        <text x={width} y={HEIGHT + 13} textAnchor="end">
          {inShort(told.edges.at(-1))} {unit}
        </text>
      </svg>
    </div>
  );
}
