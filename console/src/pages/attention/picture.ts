// A part of a head's attention as a picture: cells, the tokens that each is of, and what its colours mean.

import type { Tile } from "../../api/client";
import { around0, type Scale } from "../../colour/palette";

export interface Picture {
  values: ArrayLike<number>;
  /** How many cells down and across. */
  shape: readonly [number, number];
  /** The tokens that are shown: of the first row to before the last, and of the columns likewise. */
  rows: readonly [number, number];
  cols: readonly [number, number];
  /** How many tokens a cell is of, down and across. */
  cell: readonly [number, number];
  scale: Scale;
  /** The largest probability, which the last colour stands for. */
  most: number;
}

/** Bytes are the steps of the palette: √(probability / most) · 255. */
const BYTES: Scale = { name: "mass", low: 0, high: 255 };

export function pictureOf({ values, about }: Tile): Picture {
  const [down = 0, across = 0] = about.shape;
  return {
    values,
    shape: [down, across],
    rows: pair(about["rows"], [0, down]),
    cols: pair(about["cols"], [0, across]),
    cell: pair(about["pooled"], [1, 1]),
    scale: BYTES,
    most: typeof about["scale"] === "number" ? about["scale"] : 1,
  };
}

/** Cell by cell, the first picture's probability minus the second's; null where they are not of the same cells. */
export function differenceOf(a: Picture, b: Picture): Picture | null {
  const same = (x: readonly number[], y: readonly number[]) => x[0] === y[0] && x[1] === y[1];
  if (!same(a.shape, b.shape) || !same(a.rows, b.rows) || !same(a.cols, b.cols) || !same(a.cell, b.cell)) return null;
  const values = Float64Array.from({ length: a.values.length }, (_, at) => probability(a, at) - probability(b, at));
  const scale = around0(values);
  return { ...a, values, scale, most: scale.high };
}

/** The probability of a cell, to within the step of a byte; of several tokens, the largest. */
export function probability(picture: Picture, at: number): number {
  const value = picture.values[at] ?? 0;
  return picture.scale === BYTES ? (value / 255) ** 2 * picture.most : value;
}

/** The tokens of a row or column of cells: from the first to before the second. */
export function tokensOf(shown: readonly [number, number], size: number, cell: number): [number, number] {
  const first = shown[0] + cell * size;
  return [first, Math.min(first + size, shown[1])];
}

/** The cell of a token; undefined where the token is not shown. */
export function cellOf(shown: readonly [number, number], size: number, token: number | undefined): number | undefined {
  return token === undefined || token < shown[0] || token >= shown[1] ? undefined : Math.floor((token - shown[0]) / size);
}

function pair(value: unknown, otherwise: [number, number]): [number, number] {
  return Array.isArray(value) && typeof value[0] === "number" && typeof value[1] === "number" ? [value[0], value[1]] : otherwise;
}
