import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { byDifference, differences, segmentAt, totals } from "./difference";

const rows = new Rows([
  ["text", ["Hi", " ä", "!"], "text"],
  ["a_pos", [[0], [1, 2], [3]], "other"],
  ["a_loss", [null, 3, 1], "number"],
  ["b_loss", [null, 1, 2.5], "number"],
  ["loss_difference", [null, 2, -1.5], "number"],
]);

describe("the difference of two runs", () => {
  it("has no value where one of them predicts nothing", () => {
    expect([...differences(rows, "loss", "x", "y").values]).toEqual([NaN, 2, -1.5]);
    expect(totals(rows)).toEqual({ segments: 2, a: 4, b: 3.5, bytes: 4 });
  });

  it("lists what differs most first, and what does not differ not at all", () => {
    expect(byDifference(Float64Array.from([NaN, 0.5, -2, 0, 2]))).toEqual([2, 4, 1]);
  });

  it("is as far below 0 as above", () => {
    const { scale } = differences(rows, "loss", "x", "y");
    expect(scale.low).toBe(-scale.high);
  });

  it("does not let one outlier make all others pale", () => {
    const values = Array.from({ length: 200 }, (_, at) => (at === 0 ? 50 : at === 1 ? Infinity : 1));
    const { scale, ends } = differences(new Rows([["loss_difference", values, "number"]]), "loss", "x", "y");
    expect([scale.high, ends]).toEqual([1, ["≤ −1", "≥ 1"]]);
  });

  it("finds the segment of a token", () => {
    expect([segmentAt(rows, 2), segmentAt(rows, 9), segmentAt(rows, undefined)]).toEqual([1, undefined, undefined]);
  });
});
