// The rows of a lens as a matrix of layer × token.

import type { Rows, Value } from "../../api/rows";
import { upTo, type Scale } from "../../colour/palette";

export const METRICS = [
  ["rank", "rank"],
  ["prob", "probability"],
  ["entropy", "entropy"],
  ["kl", "KL"],
] as const;
export type Metric = (typeof METRICS)[number][0];

interface Meaning {
  column: string;
  scale: Scale;
  label: string;
  transform?: string;
  ends?: readonly [string, string];
  of: (value: number) => number;
}

const same = (value: number) => value;

export const MEANINGS: Record<Metric, Meaning> = {
  rank: { column: "actual_rank", scale: upTo("loss", 4), label: "rank of the next token", transform: "logarithmic", ends: ["1", "≥ 10,000"], of: Math.log10 },
  prob: { column: "actual_prob", scale: upTo("mass", 1), label: "probability of the next token", of: same },
  entropy: { column: "entropy", scale: upTo("loss", 8), label: "entropy, nats", ends: ["0", "≥ 8"], of: same },
  kl: { column: "kl_to_final", scale: upTo("loss", 10), label: "KL from the last layer, nats", ends: ["0", "≥ 10"], of: same },
};

export interface Lens {
  /** From below; null is what enters the first layer. */
  layers: readonly (number | null)[];
  positions: number;
  /** The number of the row of a layer (by its place in `layers`) and position; −1 where there is none. */
  rowAt: Int32Array;
}

/** Where each layer and position is among the rows. */
export function lensOf(rows: Rows): Lens {
  const all = Array.from({ length: rows.length }, (_, row) => row);
  const layers = [...new Set(all.map((row) => rows.number(row, "layer")))].sort((a, b) => (a ?? -1) - (b ?? -1));
  const places = new Map<Value, number>(layers.map((layer, place) => [layer, place]));
  const positions = 1 + all.reduce((most, row) => Math.max(most, rows.number(row, "pos") ?? 0), -1);
  const rowAt = new Int32Array(layers.length * positions).fill(-1);
  for (const row of all) rowAt[(places.get(rows.number(row, "layer")) ?? 0) * positions + (rows.number(row, "pos") ?? 0)] = row;
  return { layers, positions, rowAt };
}

/** One metric of the positions from `first` to before `last`, layer by layer. */
export function lensValues(rows: Rows, lens: Lens, metric: Metric, first: number, last: number): Float64Array {
  const { column, of } = MEANINGS[metric];
  const width = last - first;
  return Float64Array.from({ length: lens.layers.length * width }, (_, cell) => {
    const row = lens.rowAt[Math.floor(cell / width) * lens.positions + first + (cell % width)] ?? -1;
    const value = row < 0 ? null : rows.number(row, column);
    return value === null ? NaN : of(value);
  });
}

/** The positions around a chosen one, `count` of them where there are as many. */
export function windowAround(pos: number, count: number, positions: number): [number, number] {
  const first = Math.max(0, Math.min(pos - Math.floor(count / 2), positions - count));
  return [first, Math.min(first + count, positions)];
}
