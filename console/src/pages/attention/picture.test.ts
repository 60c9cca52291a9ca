import { describe, expect, it } from "vitest";
import { cellOf, differenceOf, pictureOf, probability, tokensOf } from "./picture";

function tile(bytes: number[], scale: number, rows: [number, number] = [0, 4]) {
  return pictureOf({ values: Uint8Array.from(bytes), about: { shape: [2, 2], dtype: "uint8", rows, cols: [0, 3], pooled: [2, 2], scale } });
}

describe("a picture of attention", () => {
  it("has the square root of a probability as its bytes", () => {
    const picture = tile([0, 255, 51, 102], 0.5);
    expect([0, 1, 2, 3].map((at) => probability(picture, at))).toEqual([0, 0.5, 0.2 ** 2 * 0.5, 0.4 ** 2 * 0.5]);
  });

  it("knows the tokens of a cell, of which the last may be fewer, and the cell of a token", () => {
    expect(tokensOf([10, 15], 2, 0)).toEqual([10, 12]);
    expect(tokensOf([10, 15], 2, 2)).toEqual([14, 15]);
    expect([9, 10, 11, 14, 15, undefined].map((token) => cellOf([10, 15], 2, token))).toEqual([undefined, 0, 0, 2, undefined, undefined]);
  });

  it("is taken from another of the same cells alone", () => {
    const difference = differenceOf(tile([255, 0, 0, 255], 1), tile([0, 0, 0, 255], 0.25));
    expect(difference && [0, 1, 2, 3].map((at) => probability(difference, at))).toEqual([1, 0, 0, 0.75]);
    expect(difference?.scale).toEqual({ name: "difference", low: -1, high: 1 });
    expect(differenceOf(tile([1, 2, 3, 4], 1), tile([1, 2, 3, 4], 1, [2, 6]))).toBeNull();
  });
});
