// What two runs can be compared by, segment by segment: the first run less the second.

import type { Rows } from "../../api/rows";
import type { Scale } from "../../colour/palette";

export const MEASURES = [
  ["loss", "loss"],
  ["entropy", "entropy"],
  ["prob", "probability"],
  ["kl", "KL"],
] as const;
export type Measure = (typeof MEASURES)[number][0];

const UNITS: Record<Measure, string> = { loss: "loss, nats", entropy: "entropy of the prediction, nats", prob: "probability", kl: "KL of the prediction, nats" };
/** The part of the segments that the scale reaches to: single outliers would make all others pale. */
const PART = 0.98;

export function measureNamed(text: string | undefined): Measure {
  return MEASURES.map(([name]) => name).find((name) => name === text) ?? "loss";
}

/** What there is to colour by: KL only where the two runs were compared (traces compare). */
export function measuresOf(rows: Rows): readonly (typeof MEASURES)[number][] {
  return MEASURES.filter(([name]) => name !== "kl" || typeof rows.notes["comparison"] === "string");
}

/** The column that a measure's differences are in. */
export function columnOf(measure: Measure): string {
  return measure === "kl" ? "kl" : `${measure}_difference`;
}

export interface Differences {
  values: Float64Array;
  scale: Scale;
  label: string;
  ends: readonly [string, string] | undefined;
}

/** The difference of each segment, NaN where one run does not predict it, and its colours. */
export function differences(rows: Rows, measure: Measure, a: string, b: string): Differences {
  const values = Float64Array.from({ length: rows.length }, (_, row) => rows.number(row, columnOf(measure)) ?? NaN);
  const sizes = [...values].filter((value) => !Number.isNaN(value)).map(Math.abs).sort((x, y) => x - y);
  const most = sizes.at(-1) ?? 0;
  const usual = sizes[Math.ceil(PART * sizes.length) - 1] ?? 0;
  const high = usual > 0 ? usual : Number.isFinite(most) && most > 0 ? most : 1;
  const shown = Number(high.toPrecision(2));
  return {
    values,
    scale: { name: "difference", low: -shown, high: shown },
    label: `${UNITS[measure]}: ${a} ${measure === "kl" ? "‖" : "−"} ${b}`,
    ends: most > shown ? [`≤ −${shown}`, `≥ ${shown}`] : undefined,
  };
}

/** The segments that differ, the largest difference first. */
export function byDifference(values: Float64Array): number[] {
  return Array.from(values.keys())
    .filter((row) => !Number.isNaN(values[row]) && values[row] !== 0)
    .sort((x, y) => Math.abs(values[y] ?? 0) - Math.abs(values[x] ?? 0) || x - y);
}

/** The segment that a token of the first run is in. */
export function segmentAt(rows: Rows, pos: number | undefined): number | undefined {
  if (pos === undefined) return undefined;
  for (let row = 0; row < rows.length; row += 1) {
    if (Array.from(rows.get(row, "a_pos") as ArrayLike<number>).includes(pos)) return row;
  }
  return undefined;
}

export interface Totals {
  segments: number;
  a: number;
  b: number;
  /** UTF-8 bytes of the segments. */
  bytes: number;
}

/** What the segments that both predict cost each run together. */
export function totals(rows: Rows): Totals {
  const found = { segments: 0, a: 0, b: 0, bytes: 0 };
  const encoder = new TextEncoder();
  for (let row = 0; row < rows.length; row += 1) {
    if (rows.number(row, "loss_difference") === null) continue;
    found.segments += 1;
    found.a += rows.number(row, "a_loss") ?? 0;
    found.b += rows.number(row, "b_loss") ?? 0;
    found.bytes += encoder.encode(rows.text(row, "text")).length;
  }
  return found;
}
