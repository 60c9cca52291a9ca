import type { ComponentProps } from "react";
import { Heatmap } from "./Heatmap";
import { SHORT_LABEL, everyNth, gutters } from "./axes";

interface Props extends Omit<ComponentProps<typeof Heatmap>, "width" | "height" | "rows" | "cols"> {
  rowLabels: readonly string[];
  colLabels: readonly string[];
  rowTitle: string;
  colTitle: string;
  /** The room for picture and labels, in CSS pixels. */
  width: number;
  height: number;
  /** The largest a cell may be. */
  most?: { width: number; height: number };
}

/** A matrix as colours, with names along its two sides; names that would not fit are left out evenly. */
export function LabelledHeatmap({ rowLabels, colLabels, rowTitle, colTitle, width, height, most = { width: 36, height: 24 }, ...rest }: Props) {
  const { left, below } = gutters(rowLabels, colLabels);
  const wide = Math.max(1, Math.min(most.width, Math.floor((width - left - 4) / Math.max(1, colLabels.length))));
  const high = Math.max(1, Math.min(most.height, Math.floor((height - below - 4) / Math.max(1, rowLabels.length))));
  const across = wide * colLabels.length;
  const down = high * rowLabels.length;
  const slanted = colLabels.some((label) => label.length > SHORT_LABEL);
  const lineOf = (row: number) => (rest.upwards ? rowLabels.length - 1 - row : row);
  if (width <= 0 || height <= 0) return null;
  return (
    <div className="labelled" style={{ width: left + across, height: down + below }}>
      <svg width={left + across + (slanted ? 12 : 0)} height={down + below} aria-hidden="true">
        <text className="title" transform={`translate(10 ${down / 2}) rotate(-90)`} textAnchor="middle">
          {rowTitle}
        </text>
        {rowLabels.map((label, row) =>
          row % everyNth(high, 11) === 0 ? (
            <text key={row} x={left - 5} y={(lineOf(row) + 0.5) * high + 3.5} textAnchor="end">
              {label}
            </text>
          ) : null,
        )}
        {colLabels.map((label, col) =>
          col % everyNth(wide, slanted ? 11 : 7 * Math.max(...colLabels.map((each) => each.length)) + 2) === 0 ? (
            <text
              key={col}
              textAnchor={slanted ? "end" : "middle"}
              transform={slanted ? `translate(${left + (col + 0.5) * wide + 4} ${down + 11}) rotate(-50)` : `translate(${left + (col + 0.5) * wide} ${down + 13})`}
            >
              {label}
            </text>
          ) : null,
        )}
        <text className="title" x={left + across / 2} y={down + below - 4} textAnchor="middle">
          {colTitle}
        </text>
      </svg>
      <div className="inner" style={{ left }}>
        <Heatmap {...rest} rows={rowLabels.length} cols={colLabels.length} width={across} height={down} />
      </div>
    </div>
  );
}
