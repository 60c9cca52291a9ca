// What a file of `traces console export` holds: examples of a run, as columns and small pictures.

import { Rows, type Kind, type Value } from "../api/rows";

type Columns = readonly [string, Kind, Value[]][];

export interface Head {
  layer: number;
  head: number;
  /** Cells in a column and in a row of the picture. */
  shape: readonly [number, number];
  /** Tokens that a cell is the largest over. */
  cell: readonly [number, number];
  /** The largest probability, which is the byte 255; a byte is the square root of its part. */
  scale: number;
  /** The picture row by row, in base64. */
  bytes: string;
  /** What is known of the head on this text: entropy, masses. */
  about: Readonly<Record<string, number | null>>;
}

export interface Example {
  example_id: string;
  seq: number;
  text: string;
  strip: Columns;
  lens: { run: string; columns: Columns } | null;
  heads: readonly Head[];
  /** How many heads the model has. */
  heads_in_all: number;
  heads_rule: string;
}

export interface Shown {
  version: string;
  run: Readonly<Record<string, string | null>>;
  examples: readonly Example[];
}

export function readData(): Shown {
  return JSON.parse(document.getElementById("data")?.textContent ?? "") as Shown;
}

/** Columns as rows; infinities, which JSON does not have, come as text. */
export function rowsOf(columns: Columns): Rows {
  return new Rows(columns.map(([name, kind, values]) => [name, kind === "number" ? values.map((value) => (typeof value === "string" ? Number(value) : value)) : values, kind]));
}

export function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
