import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { scheme } from "../env/scheme";
import { useStore } from "../env/store";

export interface Line {
  label: string;
  values: readonly (number | null)[];
  /** The name of a colour variable of the style sheet, such as `--line-1`. */
  colour: string;
  dashed?: boolean;
  /** Whether it goes on over values that are missing. */
  spans?: boolean;
  /** The two ends of a band around it. */
  band?: { low: readonly (number | null)[]; high: readonly (number | null)[] };
}

interface Props {
  x: readonly number[];
  lines: readonly Line[];
  xLabel: string;
  yLabel: string;
  width: number;
  height: number;
  logarithmic?: boolean;
  /** Where a line stands upright: what is chosen. */
  mark?: number | undefined;
  /** Further upright lines, dashed: places with a name. */
  marks?: readonly { x: number; label: string; colour: string }[] | undefined;
  onPoint?: (index: number | null) => void;
  onChoose?: (index: number) => void;
}

/* eslint-disable @typescript-eslint/no-unsafe-enum-assignment -- uPlot's enum has no values at run time */
const LINEAR = 1 as uPlot.Scale.Distr;
const LOGARITHMIC = 3 as uPlot.Scale.Distr;
/* eslint-enable @typescript-eslint/no-unsafe-enum-assignment */

/** Lines over a common axis, with bands. */
export function LineChart({ x, lines, xLabel, yLabel, width, height, logarithmic = false, mark, marks, onPoint, onChoose }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const colours = useStore(scheme);
  useEffect(() => {
    if (!box.current) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--ink-2"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const series: uPlot.Series[] = [{ label: xLabel }];
    const data: (readonly (number | null)[])[] = [x];
    const bands: uPlot.Band[] = [];
    for (const line of lines) {
      if (line.band) {
        data.push(line.band.low, line.band.high);
        const edge = { show: true, points: { show: false }, width: 0, spanGaps: line.spans ?? false };
        series.push(edge, { ...edge });
        bands.push({ series: [series.length - 1, series.length - 2], fill: `color-mix(in srgb, ${colour(line.colour)} 18%, transparent)` });
      }
      data.push(line.values);
      series.push({ label: line.label, stroke: colour(line.colour), width: 1.75, points: { show: x.length < 60, size: 5 }, spanGaps: line.spans ?? false, ...(line.dashed ? { dash: [5, 4] } : {}) });
    }
    const plot = new uPlot(
      {
        width,
        height,
        series,
        bands,
        legend: { show: false },
        cursor: { y: false },
        scales: { x: { time: false, distr: logarithmic ? LOGARITHMIC : LINEAR } },
        axes: [
          { ...axis, label: xLabel, labelSize: 18, size: 34 },
          { ...axis, label: yLabel, labelSize: 18, size: 48 },
        ],
        hooks: {
          setCursor: [(self) => onPoint?.(self.cursor.idx ?? null)],
          draw: [
            (self) => {
              if (mark !== undefined) upright(self, mark, colour("--chosen"), []);
              for (const each of marks ?? []) upright(self, each.x, colour(each.colour), [5, 4]);
            },
          ],
        },
      },
      data as unknown as uPlot.AlignedData,
      box.current,
    );
    plot.over.addEventListener("click", () => {
      const index = plot.cursor.idx;
      if (typeof index === "number") onChoose?.(index);
    });
    return () => plot.destroy();
  }, [x, lines, xLabel, yLabel, width, height, logarithmic, mark, marks, colours, onPoint, onChoose]);
  return (
    <figure className="chart">
      <div ref={box} style={{ width, height }} role="img" aria-label={`${yLabel} over ${xLabel}`} />
      <figcaption>
        {lines.map((line) => (
          <span key={line.label}>
            <i style={{ borderTop: `2px ${line.dashed ? "dashed" : "solid"} var(${line.colour})` }} /> {line.label}
          </span>
        ))}
        {marks?.map((each) => (
          <span key={each.label}>
            <i style={{ borderTop: `2px dashed var(${each.colour})` }} /> {each.label}
          </span>
        ))}
      </figcaption>
    </figure>
  );
}

/** Draws an upright line at a place of the horizontal axis. */
function upright(plot: uPlot, x: number, colour: string, dash: number[]): void {
  const at = plot.valToPos(x, "x", true);
  plot.ctx.save();
  plot.ctx.strokeStyle = colour;
  plot.ctx.lineWidth = 2 * devicePixelRatio;
  plot.ctx.setLineDash(dash);
  plot.ctx.beginPath();
  plot.ctx.moveTo(at, plot.bbox.top);
  plot.ctx.lineTo(at, plot.bbox.top + plot.bbox.height);
  plot.ctx.stroke();
  plot.ctx.restore();
}
