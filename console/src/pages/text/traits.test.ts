import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { dynamicsOf, traitLines } from "./traits";

const vector = { trait: "calm", method: "mean", component: "resid", layer: 3 };

describe("a response along a trait", () => {
  it("is a line by position, of one vector alone", () => {
    const rows = new Rows([
      ["trait", ["calm", "calm", "odd"], "text"],
      ["method", ["mean", "mean", "mean"], "text"],
      ["component", ["resid", "resid", "resid"], "text"],
      ["layer", [3, 3, 3], "number"],
      ["pos", [8, 7, 7], "number"],
      ["projection", [2, 1, 9], "number"],
      ["velocity", [1, null, 0], "number"],
    ]);
    expect(traitLines(rows, vector, "projection")).toEqual({ positions: [7, 8], values: [1, 2] });
    expect(traitLines(rows, vector, "velocity").values).toEqual([null, 1]);
    expect(traitLines(rows, vector, "projection", 8)).toEqual({ positions: [8], values: [2] });
  });

  it("has its named places counted from its first token", () => {
    const dynamics = [{ ...vector, first_pos: 10, commitment_point: 2, peak_point: null }];
    expect(dynamicsOf(dynamics, vector)).toEqual([{ x: 12, label: "commitment at 12", colour: "--line-3" }]);
    expect(dynamicsOf(dynamics, { ...vector, layer: 4 })).toEqual([]);
  });
});
