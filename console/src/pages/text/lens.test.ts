import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { lensOf, lensValues, windowAround } from "./lens";

const rows = new Rows([
  ["layer", [null, null, 3, 3, 1], "number"],
  ["pos", [0, 1, 0, 1, 1], "number"],
  ["actual_rank", [1, 100, 10, null, 1000], "number"],
]);

describe("a lens as a matrix", () => {
  it("has what enters the first layer lowest, then the layers that there are", () => {
    const lens = lensOf(rows);
    expect(lens.layers).toEqual([null, 1, 3]);
    expect([...lens.rowAt]).toEqual([0, 1, -1, 4, 2, 3]);
    expect([...lensValues(rows, lens, "rank", 0, 2)]).toEqual([0, 2, NaN, 3, 1, NaN]);
    expect([...lensValues(rows, lens, "rank", 1, 2)]).toEqual([2, 3, NaN]);
  });

  it("shows as many positions around the chosen one as there is room for", () => {
    expect(windowAround(50, 11, 100)).toEqual([45, 56]);
    expect(windowAround(2, 11, 100)).toEqual([0, 11]);
    expect(windowAround(99, 11, 100)).toEqual([89, 100]);
    expect(windowAround(1, 11, 4)).toEqual([0, 4]);
  });
});
