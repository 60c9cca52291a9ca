// Effects at single positions as a matrix: layers by positions.

import type { Rows } from "../../api/rows";
import { visible } from "../../components/numbers";
import { everyRow } from "./effectPanels";

export interface PlaceGrid {
  /** The layers of the rows of the picture, the lowest first; -1 is the embedding, before all layers. */
  layers: number[];
  positions: number[];
  /** The token at each position with the pair's other one, or the position alone where texts have different ones. */
  names: string[];
  values: Float64Array;
  /** The row behind each cell; -1 where there is none. */
  of: Int32Array;
  /** Whether a cell is the largest of several heads. */
  strongest: boolean;
}

/** The rows of one site and kind; of several heads at a place the one with the largest effect. */
export function placeGrid(rows: Rows, column: string, fits: (row: number) => boolean): PlaceGrid {
  const own = everyRow(rows).filter(fits);
  const layerOf = (row: number) => rows.number(row, "layer") ?? -1;
  const layers = [...new Set(own.map(layerOf))].sort((a, b) => a - b);
  const positions = [...new Set(own.map((row) => rows.number(row, "pos") ?? 0))].sort((a, b) => a - b);
  const values = new Float64Array(layers.length * positions.length).fill(NaN);
  const of = new Int32Array(values.length).fill(-1);
  const names = positions.map(String);
  let strongest = false;
  for (const row of own) {
    const col = positions.indexOf(rows.number(row, "pos") ?? 0);
    const at = layers.indexOf(layerOf(row)) * positions.length + col;
    const value = rows.number(row, column) ?? NaN;
    const before = values[at] ?? NaN;
    if (rows.text(row, "token")) names[col] = nameOf(rows, row);
    if ((of[at] ?? -1) >= 0) strongest = true;
    if ((of[at] ?? -1) >= 0 && !(Math.abs(value) > Math.abs(before))) continue;
    values[at] = value;
    of[at] = row;
  }
  return { layers, positions, names, values, of, strongest };
}

function nameOf(rows: Rows, row: number): string {
  const [own, other] = [rows.text(row, "token"), rows.text(row, "other_token")].map((token) => visible(token.trim() || token));
  const both = other && other !== own && rows.text(row, "other_token") ? `${own ?? ""}/${other}` : (own ?? "");
  return `${shortened(both)} ${rows.number(row, "pos") ?? ""}`;
}

function shortened(text: string): string {
  return text.length > 18 ? `${text.slice(0, 17)}…` : text;
}
