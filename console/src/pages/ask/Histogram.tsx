import { useState, type PointerEvent } from "react";
import type { Kind, Rows } from "../../api/rows";
import { inShort } from "../../components/numbers";
import { hideTip, showTip } from "../../components/tip";
import { useSize } from "../../components/useSize";
import { between, literal } from "../../selection/conditions";
import { binned, type Bin } from "./histogram";

export interface Range {
  low: number;
  high: number;
  /** Whether the upper end belongs to it. */
  closed: boolean;
}

interface Props {
  rows: Rows;
  name: string;
  logarithmic: boolean;
  /** What is dragged over now; null where nothing is. */
  onBrush: (range: Range | null) => void;
  onNarrow: (condition: string) => void;
}

const HEIGHT = 150;
const BELOW = 18;

/** The numbers of a column in bins. A range that is dragged over, or a bar that is clicked, narrows the question. */
export function Histogram({ rows, name, logarithmic, onBrush, onNarrow }: Props) {
  const [box, { width }] = useSize<HTMLDivElement>();
  const [brush, setBrush] = useState<{ from: number; to: number } | null>(null);
  const { bins, missing, notPositive } = binned(rows.column(name), logarithmic);
  const highest = Math.max(...bins.map((bin) => bin.count), 1);
  const kind = rows.kind(name);
  const bar = bins.length > 0 ? width / bins.length : 0;

  const at = (event: PointerEvent): number => {
    const { left } = event.currentTarget.getBoundingClientRect();
    return Math.min(Math.max(Math.floor((event.clientX - left) / bar), 0), bins.length - 1);
  };
  const brushed = (from: number, to: number): Range => {
    const [first, last] = [Math.min(from, to), Math.max(from, to)];
    return { low: bins[first]?.low ?? 0, high: bins[last]?.high ?? 0, closed: last === bins.length - 1 };
  };
  const end = () => {
    if (!brush) return;
    const { low, high, closed } = brushed(brush.from, brush.to);
    setBrush(null);
    onBrush(null);
    onNarrow(between(name, literalOf(low, kind), literalOf(high, kind), closed));
  };
  const [least, most] = brush ? [Math.min(brush.from, brush.to), Math.max(brush.from, brush.to)] : [-1, -2];

  return (
    <div ref={box} className="histogram">
      <svg
        width={width}
        height={HEIGHT + BELOW}
        role="img"
        aria-label={`${name} in ${bins.length} bins, from ${endText(bins[0]?.low, kind)} to ${endText(bins.at(-1)?.high, kind)}; the largest has ${highest} rows`}
        data-bins={bins.length}
        onPointerDown={(event) => {
          if (bins.length === 0) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          const place = at(event);
          setBrush({ from: place, to: place });
          onBrush(brushed(place, place));
        }}
        onPointerMove={(event) => {
          if (bins.length === 0) return;
          const place = at(event);
          const bin = bins[place];
          if (bin) showTip(event, <BinTip bin={bin} kind={kind} of={rows.length} />);
          if (!brush || brush.to === place) return;
          setBrush({ ...brush, to: place });
          onBrush(brushed(brush.from, place));
        }}
        onPointerUp={end}
        onPointerCancel={() => {
          setBrush(null);
          onBrush(null);
        }}
        onPointerLeave={hideTip}
      >
        <line x1={0} x2={width} y1={HEIGHT} y2={HEIGHT} className="axis" />
        {bins.map((bin, place) => {
          const height = bin.count === 0 ? 0 : Math.max((bin.count / highest) * (HEIGHT - 4), 1);
          return (
            <rect
              key={bin.low}
              x={place * bar + (bar > 4 ? 0.5 : 0)}
              width={Math.max(bar - (bar > 4 ? 1 : 0), 0.5)}
              y={HEIGHT - height}
              height={height}
              className={place >= least && place <= most ? "brushed" : undefined}
              data-count={bin.count}
            />
          );
        })}
        <text x={width} y={11} textAnchor="end">
          {bins.length > 0 ? `${highest.toLocaleString("en-US")} rows at most` : ""}
        </text>
        {brush ? <rect x={least * bar} width={(most - least + 1) * bar} y={0} height={HEIGHT} className="brush" /> : null}
        <text x={0} y={HEIGHT + 13}>
          {endText(bins[0]?.low, kind)}
        </text>
        <text x={width} y={HEIGHT + 13} textAnchor="end">
          {endText(bins.at(-1)?.high, kind)}
        </text>
        <text x={width / 2} y={HEIGHT + 13} textAnchor="middle">
          {logarithmic ? "logarithmic" : name}
        </text>
      </svg>
      {missing > 0 ? <p className="muted">{missing.toLocaleString("en-US")} rows have no number here.</p> : null}
      {notPositive > 0 ? <p className="muted">{notPositive.toLocaleString("en-US")} rows are not above 0 and have no logarithm.</p> : null}
    </div>
  );
}

function BinTip({ bin, kind, of }: { bin: Bin; kind: Kind; of: number }) {
  return (
    <>
      {endText(bin.low, kind)} to {endText(bin.high, kind)}: {bin.count.toLocaleString("en-US")} of {of.toLocaleString("en-US")} rows
    </>
  );
}

function endText(value: number | undefined, kind: Kind): string {
  if (value === undefined) return "";
  return kind === "time" ? new Date(value).toISOString().replace("T", " ").slice(0, 16) : inShort(value, 4);
}

function literalOf(value: number, kind: Kind): string {
  return literal(kind === "time" ? new Date(value) : value);
}
