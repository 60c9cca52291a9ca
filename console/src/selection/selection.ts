// The selection: the rows of a question, with any of the keys. A key that the rows lack widens what they select.

import { createStore } from "../env/store";
import type { Rows, Value } from "../api/rows";

export const KEYS = ["run_id", "example_id", "seq", "side", "pos", "layer", "head"] as const;
export type KeyName = (typeof KEYS)[number];
export type Key = Partial<Record<KeyName, string | number>>;

export interface Selection {
  rows: Rows;
  /** The question as SQL, with its conditions. */
  sql: string;
  /** Which keys the rows have. */
  keys: readonly KeyName[];
}

export const selection = createStore<Selection | null>(null);
/** The row that is looked at. */
export const focus = createStore<number>(-1);

export function select(rows: Rows, sql: string): void {
  selection.set({ rows, sql, keys: keysOf(rows) });
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
export function rowsAt(selected: Selection, place: Key): readonly number[] {
  const tests = selected.keys.flatMap((name) => {
    const wanted = place[name];
    return wanted === undefined ? [] : [{ values: selected.rows.column(name), wanted }];
  });
  return candidates(selected, place).filter((row) =>
    tests.every(({ values, wanted }) => values[row] === null || values[row] === undefined || values[row] === wanted),
  );
}

/** Keys that say which text a row is of: by these the rows are sorted into an index, which answers for one text at once. */
const OF_TEXT = ["run_id", "example_id"] as const;

interface Index {
  names: readonly (typeof OF_TEXT)[number][];
  /** The rows of a text, and those that leave it open. */
  of: Map<string, number[]>;
  open: number[];
  all: number[];
}

const indexes = new WeakMap<Rows, Index>();

function candidates(selected: Selection, place: Key): readonly number[] {
  const index = indexes.get(selected.rows) ?? indexed(selected);
  indexes.set(selected.rows, index);
  if (index.names.length === 0 || index.names.some((name) => place[name] === undefined)) return index.all;
  const found = index.of.get(textName(index.names.map((name) => place[name] ?? null))) ?? [];
  return index.open.length === 0 ? found : [...found, ...index.open].sort((a, b) => a - b);
}

function indexed({ rows, keys }: Selection): Index {
  const names = OF_TEXT.filter((name) => keys.includes(name));
  const index: Index = { names, of: new Map(), open: [], all: Array.from({ length: rows.length }, (_, row) => row) };
  for (const row of index.all) {
    const values = names.map((name) => rows.get(row, name));
    if (values.some((value) => value === null)) {
      index.open.push(row);
      continue;
    }
    const name = textName(values);
    const before = index.of.get(name);
    if (before) before.push(row);
    else index.of.set(name, [row]);
  }
  return index;
}

function textName(values: readonly Value[]): string {
  return JSON.stringify(values);
}
