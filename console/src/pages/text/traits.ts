// The projections of a response on one vector, as a line, and the places on it that have a name.

import type { Rows, Value } from "../../api/rows";
import { nameOf, vectorAt, type Vector } from "./colouring";

export const QUANTITIES = [
  ["projection", "projection"],
  ["velocity", "velocity"],
  ["acceleration", "acceleration"],
] as const;
export type Quantity = (typeof QUANTITIES)[number][0];

/** From the position `from`: where the response begins. */
export function traitLines(rows: Rows, vector: Vector, quantity: Quantity, from = 0): { positions: number[]; values: (number | null)[] } {
  const of = Array.from({ length: rows.length }, (_, row) => row)
    .filter((row) => nameOf(vectorAt(rows, row)) === nameOf(vector) && (rows.number(row, "pos") ?? 0) >= from)
    .sort((a, b) => (rows.number(a, "pos") ?? 0) - (rows.number(b, "pos") ?? 0));
  return { positions: of.map((row) => rows.number(row, "pos") ?? 0), values: of.map((row) => rows.number(row, quantity)) };
}

export interface NamedPlace {
  x: number;
  label: string;
  colour: string;
}

/** What is known of a response along a vector; positions in it are counted from the response's first token. */
function dynamicsRow(notes: unknown, vector: Vector): Record<string, Value> | undefined {
  const all = Array.isArray(notes) ? (notes as Record<string, Value>[]) : [];
  return all.find((row) => row["trait"] === vector.trait && row["method"] === vector.method && row["component"] === vector.component && row["layer"] === vector.layer);
}

/** Where the response begins; 0 where nothing says so. */
export function firstOf(notes: unknown, vector: Vector): number {
  const first = dynamicsRow(notes, vector)?.["first_pos"];
  return typeof first === "number" ? first : 0;
}

/** Where a response commits itself and where it peaks, as positions. */
export function dynamicsOf(notes: unknown, vector: Vector): NamedPlace[] {
  const own = dynamicsRow(notes, vector);
  if (!own) return [];
  const first = firstOf(notes, vector);
  const named = [
    ["commitment_point", "commitment", "--line-3"],
    ["peak_point", "peak", "--line-2"],
  ] as const;
  return named.flatMap(([column, label, colour]) => {
    const point = own[column];
    return typeof point === "number" ? [{ x: first + point, label: `${label} at ${first + point}`, colour }] : [];
  });
}
