import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { curvesOf, firstSize } from "./curves";

const rows = new Rows([
  ["circuit", ["c", "c", "c", "c", "other"], "text"],
  ["part", ["all", "all", "all", "all", "all"], "text"],
  ["selection", ["abs", "abs", "signed", "abs", "abs"], "text"],
  ["is_own", [true, true, true, false, true], "truth"],
  ["task", ["t", "t", "t", "u", "t"], "text"],
  ["source_run_id", ["t", "t", "t", "v", "t"], "text"],
  ["size", [0.01, 0.1, 0.1, 0.5, 0.3], "number"],
  ["faithfulness", [0.4, 0.9, 1.1, 0.2, 0.5], "number"],
  ["low", [0.3, 0.8, 1, 0.1, 0], "number"],
  ["high", [0.5, 1, 1.2, 0.3, 1], "number"],
  ["random", [0, 0.1, null, null, null], "number"],
  ["random_low", [0, 0, null, null, null], "number"],
  ["random_high", [0, 0.2, null, null, null], "number"],
  ["complement", [null, null, null, null, null], "number"],
]);

describe("the curves of a circuit", () => {
  it("begin with its own, and have the others on the same sizes", () => {
    const { x, lines, sizes } = curvesOf(rows, "c", "abs");
    expect(x).toEqual([0.01, 0.1, 0.5]);
    expect(sizes).toEqual([0.01, 0.1]);
    expect(lines.map((line) => line.label)).toEqual(["circuit, abs", "random edges", "signed", "v, abs"]);
    expect(lines[0]?.values).toEqual([0.4, 0.9, null]);
    expect(lines[1]?.band).toEqual({ low: [0, 0, null], high: [0, 0.2, null] });
    expect(lines[3]?.values).toEqual([null, null, 0.2]);
  });

  it("say where to begin: the smallest size that is near to the model", () => {
    expect(firstSize(rows, "c", "abs")).toBe(0.1);
    expect(firstSize(rows, "c", "greedy")).toBe(0.01);
    expect(firstSize(undefined, "c", "abs")).toBe(0.01);
  });
});
