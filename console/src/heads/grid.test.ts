import { describe, expect, it } from "vitest";
import { Rows } from "../api/rows";
import { gridOf, gridSize } from "./grid";

const rows = new Rows([
  ["layer", [0, 1, 1, 2, null], "number"],
  ["head", [1, 0, 0, null, 1], "number"],
  ["kind", ["a", "a", "b", "a", "a"], "text"],
  ["effect", [0.5, -2, 7, 9, null], "number"],
]);

describe("rows of heads as a grid", () => {
  it("have each head's first value in its place, and NaN elsewhere", () => {
    const grid = gridOf(rows, "effect");
    expect(gridSize(rows)).toEqual({ layers: 3, heads: 2 });
    expect(Array.from(grid.values)).toEqual([NaN, 0.5, -2, NaN, NaN, NaN]);
    expect(Array.from(grid.rows)).toEqual([-1, 0, 1, -1, -1, -1]);
  });

  it("leave out rows that do not fit", () => {
    expect(Array.from(gridOf(rows, "effect", (row) => rows.text(row, "kind") === "b").values)).toEqual([NaN, NaN, 7, NaN, NaN, NaN]);
  });
});
