// The selection: the rows of a question, with any of the keys. A key that the rows lack widens what they select.

import { createStore } from "../env/store";
import type { Rows, Value } from "../api/rows";

export const KEYS = ["run_id", "example_id", "seq", "side", "pos", "layer", "head"] as const;
export type KeyName = (typeof KEYS)[number];
export type Key = Partial<Record<KeyName, string | number>>;

export interface Selection {
  rows: Rows;
  /** The question as SQL; the address carries it. */
  sql: string;
  /** Which keys the rows have. */
  keys: readonly KeyName[];
}

export const selection = createStore<Selection | null>(null);
/** The row that is looked at. */
export const focus = createStore<number>(-1);

export function select(rows: Rows, sql: string): void {
  selection.set({ rows, sql, keys: keysOf(rows) });
  focus.set(-1);
}

export function keysOf(rows: Rows): KeyName[] {
  return KEYS.filter((name) => rows.has(name));
}

/** The keys of a row. */
export function keyOf(rows: Rows, row: number): Key {
  const key: Key = {};
  for (const name of KEYS) {
    const value: Value = rows.get(row, name);
    if (typeof value === "string" || typeof value === "number") key[name] = value;
  }
  return key;
}

/** The numbers of the rows that select a place: those whose every key is the place's, or is missing on either side. */
export function rowsAt(selected: Selection, place: Key): number[] {
  const tests = selected.keys.flatMap((name) => {
    const wanted = place[name];
    return wanted === undefined ? [] : [{ values: selected.rows.column(name), wanted }];
  });
  const found: number[] = [];
  for (let row = 0; row < selected.rows.length; row += 1) {
    if (tests.every(({ values, wanted }) => values[row] === null || values[row] === wanted)) found.push(row);
  }
  return found;
}
