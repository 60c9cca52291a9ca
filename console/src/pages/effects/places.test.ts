import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { placeGrid } from "./places";

const rows = new Rows([
  ["site", ["v", "v", "v", "q"], "text"],
  ["layer", [7, 7, 2, 7], "number"],
  ["head", [0, 1, 0, 0], "number"],
  ["pos", [3, 3, 5, 4], "number"],
  ["token", [" cat", " cat", null, " on"], "text"],
  ["other_token", [" dog", " dog", null, " on"], "text"],
  ["effect", [0.5, -2, 1, 9], "number"],
]);

describe("effects by layer and position", () => {
  it("have the strongest head at a place, and name tokens where texts agree", () => {
    const grid = placeGrid(rows, "effect", (row) => rows.text(row, "site") === "v");
    expect(grid.layers).toEqual([2, 7]);
    expect(grid.names).toEqual(["cat/dog 3", "5"]);
    expect(Array.from(grid.values)).toEqual([NaN, 1, -2, NaN]);
    expect(grid.strongest).toBe(true);
    expect(grid.of[2]).toBe(1);
  });
});
