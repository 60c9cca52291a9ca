// Rows with a layer and a head as a matrix: what layer × head pictures are drawn from.

import type { Rows } from "../api/rows";

export interface Grid {
  layers: number;
  heads: number;
  /** Row by row, layer 0 first; NaN where there is no row. */
  values: Float64Array;
  /** The row behind each cell; -1 where there is none. */
  rows: Int32Array;
}

/** The size of a grid that holds all of these rows. */
export function gridSize(rows: Rows): { layers: number; heads: number } {
  let layers = 0;
  let heads = 0;
  for (let row = 0; row < rows.length; row += 1) {
    layers = Math.max(layers, 1 + (rows.number(row, "layer") ?? -1));
    heads = Math.max(heads, 1 + (rows.number(row, "head") ?? -1));
  }
  return { layers, heads };
}

/** One column of rows as a grid, of those rows that fit. Of several rows of a head the first one counts. */
export function gridOf(rows: Rows, name: string, fits: (row: number) => boolean = () => true, size = gridSize(rows)): Grid {
  const { layers, heads } = size;
  const values = new Float64Array(layers * heads).fill(NaN);
  const of = new Int32Array(layers * heads).fill(-1);
  for (let row = 0; row < rows.length; row += 1) {
    const layer = rows.number(row, "layer");
    const head = rows.number(row, "head");
    if (layer === null || head === null || layer >= layers || head >= heads || !fits(row)) continue;
    const at = layer * heads + head;
    if ((of[at] ?? 0) >= 0) continue;
    of[at] = row;
    values[at] = rows.number(row, name) ?? NaN;
  }
  return { layers, heads, values, rows: of };
}

export function numbersTo(count: number): string[] {
  return Array.from({ length: count }, (_, number) => String(number));
}
