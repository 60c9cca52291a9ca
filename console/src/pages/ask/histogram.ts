// How the values of a column are distributed: bins with round edges for numbers, the most frequent values for the rest.

import type { Rows, Value } from "../../api/rows";
import { asText } from "../../components/numbers";

export interface Bin {
  low: number;
  high: number;
  count: number;
}

export interface Numbers {
  bins: Bin[];
  /** Rows without a number: NULL and NaN. */
  missing: number;
  /** Numbers that a logarithm does not have. */
  notPositive: number;
}

export interface Statistics {
  count: number;
  mean: number | null;
  min: number | null;
  max: number | null;
  sum: number | null;
}

const BINS = 40;

/** Numbers in about 40 bins; the last one holds its upper edge too. */
export function binned(values: ArrayLike<Value>, logarithmic: boolean, most = BINS): Numbers {
  const numbers: number[] = [];
  let missing = 0;
  let notPositive = 0;
  for (let row = 0; row < values.length; row += 1) {
    const value = asNumber(values[row]);
    if (value === null || !Number.isFinite(value)) missing += 1;
    else if (logarithmic && value <= 0) notPositive += 1;
    else numbers.push(value);
  }
  const edges = edgesOf(numbers, logarithmic, most);
  const bins = edges.slice(1).map((high, place) => ({ low: edges[place] ?? 0, high, count: 0 }));
  for (const value of numbers) {
    const bin = bins[binOf(edges, value)];
    if (bin) bin.count += 1;
  }
  return { bins, missing, notPositive };
}

/** The place of the bin that a number falls into. */
function binOf(edges: readonly number[], value: number): number {
  let low = 0;
  let high = edges.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((edges[middle] ?? 0) <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

function edgesOf(numbers: readonly number[], logarithmic: boolean, most: number): number[] {
  if (numbers.length === 0) return [];
  let least = Infinity;
  let largest = -Infinity;
  let whole = true;
  for (const value of numbers) {
    least = Math.min(least, value);
    largest = Math.max(largest, value);
    whole &&= Number.isInteger(value);
  }
  if (logarithmic && largest > least) return powers(least, largest, most);
  const span = largest - least;
  const step = span > 0 ? niceStep(span / most, whole) : whole ? 1 : Math.abs(least) || 1;
  const first = Math.floor(least / step);
  const last = Math.floor(largest / step) + 1;
  return Array.from({ length: last - first + 1 }, (_, place) => rounded((first + place) * step));
}

/** 1, 2 or 5 times a power of ten, and at least `least`; whole where the numbers are. */
export function niceStep(least: number, whole: boolean): number {
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= least * (1 - 1e-9)) ?? 10 * power;
  return whole ? Math.max(1, Math.round(step)) : rounded(step);
}

/** Edges at equal distances of the logarithm, which take in all. */
function powers(least: number, largest: number, most: number): number[] {
  const low = Math.log10(least);
  const step = (Math.log10(largest) - low) / most;
  const inner = Array.from({ length: most - 1 }, (_, place) => Number((10 ** (low + (place + 1) * step)).toPrecision(4)));
  return [...new Set([below(least), ...inner, above(largest)])].sort((a, b) => a - b);
}

/** At most a number, in four digits. */
function below(value: number): number {
  const short = Number(value.toPrecision(4));
  return short <= value ? short : value;
}

function above(value: number): number {
  const short = Number(value.toPrecision(4));
  return short >= value ? short : value;
}

function rounded(value: number): number {
  return Number(value.toPrecision(12));
}

function asNumber(value: Value | undefined): number | null {
  if (typeof value === "number") return value;
  return value instanceof Date ? value.getTime() : null;
}

export interface Frequency {
  value: Value;
  text: string;
  count: number;
}

/** The most frequent values, and how many others there are. */
export function frequencies(values: ArrayLike<Value>, most: number): { top: Frequency[]; others: number; distinct: number } {
  const counts = new Map<string, Frequency>();
  for (let row = 0; row < values.length; row += 1) {
    const value = values[row] ?? null;
    const key = value === null ? "null" : `=${asText(value)}`;
    const known = counts.get(key);
    if (known) known.count += 1;
    else counts.set(key, { value, text: value === null ? "NULL" : asText(value), count: 1 });
  }
  const sorted = [...counts.values()].sort((a, b) => b.count - a.count);
  const top = sorted.slice(0, most);
  return { top, others: values.length - top.reduce((sum, each) => sum + each.count, 0), distinct: sorted.length };
}

/** Count, mean, least, largest and sum of the numbers of a column, of those within two ends where they are given. */
export function statistics(rows: Rows, name: string, range?: { low: number; high: number; closed: boolean }): Statistics {
  const values = rows.column(name);
  let count = 0;
  let sum = 0;
  let min = Infinity;
  let max = -Infinity;
  for (let row = 0; row < values.length; row += 1) {
    const value = asNumber(values[row]);
    if (value === null || Number.isNaN(value)) continue;
    if (range && (value < range.low || value > range.high || (value === range.high && !range.closed))) continue;
    count += 1;
    sum += value;
    min = Math.min(min, value);
    max = Math.max(max, value);
  }
  return count === 0 ? { count, mean: null, min: null, max: null, sum: null } : { count, mean: sum / count, min, max, sum };
}
