import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { byColumn, byDifference, byTrait, vectorsOf } from "./colouring";

function strip(ids: number[], losses: (number | null)[]): Rows {
  return new Rows([
    ["token_id", ids, "number"],
    ["loss", losses, "number"],
    ["true_rank", losses.map((loss) => (loss === null ? null : 100)), "number"],
  ]);
}

describe("what a strip is coloured by", () => {
  it("leaves a token that nothing predicted without a value", () => {
    expect([...byColumn("loss", strip([5, 6], [null, 2])).values]).toEqual([NaN, 2]);
    expect([...byColumn("rank", strip([5, 6], [null, 2])).values]).toEqual([NaN, 2]);
  });

  it("takes the loss of the same tokens in two runs apart, and of other tokens not", () => {
    const here = strip([5, 6, 7], [null, 2, 1]);
    const difference = byDifference(here, strip([5, 6, 7], [null, 0.5, 3]), "other");
    expect([...(difference?.values ?? [])]).toEqual([NaN, 1.5, -2]);
    expect(difference?.scale).toEqual({ name: "difference", low: -2, high: 2 });
    expect(byDifference(here, strip([5, 6, 8], [null, 0.5, 3]), "other")).toBeNull();
    expect(byDifference(here, strip([5, 6], [null, 0.5]), "other")).toBeNull();
  });

  it("puts a vector's projections where its tokens are", () => {
    const rows = new Rows([
      ["trait", ["calm", "calm", "calm"], "text"],
      ["method", ["mean", "mean", "mean"], "text"],
      ["component", ["resid", "resid", "resid"], "text"],
      ["layer", [3, 3, 4], "number"],
      ["pos", [1, 2, 1], "number"],
      ["projection", [0.25, -1, 9], "number"],
    ]);
    const [first] = vectorsOf(rows);
    expect(vectorsOf(rows)).toHaveLength(2);
    const coloured = first && byTrait(rows, 4, first);
    expect([...(coloured?.values ?? [])]).toEqual([NaN, 0.25, -1, NaN]);
    expect(coloured?.scale).toEqual({ name: "difference", low: -0.25, high: 0.25 });
  });
});
