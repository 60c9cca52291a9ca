// The projections of a response on one vector, as a line, and the places on it that have a name.

import type { Rows, Value } from "../../api/rows";
import { nameOf, vectorAt, type Vector } from "./colouring";

export const QUANTITIES = [
  ["projection", "projection"],
  ["velocity", "velocity"],
  ["acceleration", "acceleration"],
] as const;
export type Quantity = (typeof QUANTITIES)[number][0];

export function traitLines(rows: Rows, vector: Vector, quantity: Quantity): { positions: number[]; values: (number | null)[] } {
  const of = Array.from({ length: rows.length }, (_, row) => row)
    .filter((row) => nameOf(vectorAt(rows, row)) === nameOf(vector))
    .sort((a, b) => (rows.number(a, "pos") ?? 0) - (rows.number(b, "pos") ?? 0));
  return { positions: of.map((row) => rows.number(row, "pos") ?? 0), values: of.map((row) => rows.number(row, quantity)) };
}

export interface NamedPlace {
  x: number;
  label: string;
  colour: string;
}

/** Where a response commits itself and where it peaks, as positions; they are counted from the response's first token. */
export function dynamicsOf(notes: unknown, vector: Vector): NamedPlace[] {
  const all = Array.isArray(notes) ? (notes as Record<string, Value>[]) : [];
  const own = all.find((row) => row["trait"] === vector.trait && row["method"] === vector.method && row["component"] === vector.component && row["layer"] === vector.layer);
  if (!own) return [];
  const first = typeof own["first_pos"] === "number" ? own["first_pos"] : 0;
  const named = [
    ["commitment_point", "commitment", "--line-3"],
    ["peak_point", "peak", "--line-2"],
  ] as const;
  return named.flatMap(([column, label, colour]) => {
    const point = own[column];
    return typeof point === "number" ? [{ x: first + point, label: `${label} at ${first + point}`, colour }] : [];
  });
}
