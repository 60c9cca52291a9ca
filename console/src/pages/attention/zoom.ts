// Which part of a head's matrix is looked at, as the address has it: zoom=ROW0,ROW1,COL0,COL1.

export interface Part {
  row0: number;
  row1: number;
  col0: number;
  col1: number;
}

/** A place in a picture, from 0 at its left and top to 1. */
export interface Spot {
  x: number;
  y: number;
}

const LEAST = 4;

/** The part that an address names; undefined for the whole, and for what is no part of it. */
export function parsePart(text: string | undefined, rows: number, cols: number): Part | undefined {
  const [row0 = -1, row1 = -1, col0 = -1, col1 = -1] = (text ?? "").split(",").map((part) => (/^\d{1,9}$/.test(part) ? Number(part) : -1));
  if (row0 < 0 || col0 < 0 || row1 <= row0 || col1 <= col0 || row1 > rows || col1 > cols) return undefined;
  return { row0, row1, col0, col1 };
}

/** As the address has it; undefined for the whole. */
export function formatPart(part: Part, rows: number, cols: number): string | undefined {
  const { row0, row1, col0, col1 } = part;
  return row0 === 0 && col0 === 0 && row1 === rows && col1 === cols ? undefined : [row0, row1, col0, col1].join(",");
}

/** Nearer to a spot, or further from it, which stays where it is as well as it can. */
export function zoomed(part: Part, spot: Spot, factor: number, rows: number, cols: number): Part {
  const [row0, row1] = span(part.row0, part.row1, spot.y, factor, rows);
  const [col0, col1] = span(part.col0, part.col1, spot.x, factor, cols);
  return { row0, row1, col0, col1 };
}

function span(first: number, last: number, at: number, factor: number, count: number): [number, number] {
  const length = last - first;
  const wanted = Math.round(length * factor);
  const next = Math.min(count, Math.max(Math.min(LEAST, count), wanted === length ? length + (factor > 1 ? 1 : -1) : wanted));
  const start = Math.round(first + at * length - at * next);
  const clamped = Math.min(Math.max(start, 0), count - next);
  return [clamped, clamped + next];
}

/** What lies between two spots of a part, as they were dragged. */
export function boxed(part: Part, from: Spot, to: Spot): Part {
  const [row0, row1] = between(part.row0, part.row1, from.y, to.y);
  const [col0, col1] = between(part.col0, part.col1, from.x, to.x);
  return { row0, row1, col0, col1 };
}

function between(first: number, last: number, a: number, b: number): [number, number] {
  const length = last - first;
  const least = Math.min(LEAST, length);
  const start = Math.min(first + Math.floor(Math.max(Math.min(a, b), 0) * length), last - least);
  const end = first + Math.ceil(Math.min(Math.max(a, b), 1) * length);
  return [start, Math.max(end, start + least)];
}
