import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { scoresOf, softmax } from "./scores";

describe("the scores of choices", () => {
  it("add up to 1, and a choice that is ruled out has none", () => {
    const shares = softmax([2, 1, -Infinity]);
    expect(shares.reduce((all, part) => all + part, 0)).toBeCloseTo(1, 12);
    expect(shares[2]).toBe(0);
    expect(softmax([-Infinity, -Infinity])).toEqual([0, 0]);
    expect(softmax([1000, 1000])).toEqual([0.5, 0.5]);
  });

  it("are those that the run has, the one that decides named, the first among equals taken", () => {
    const rows = new Rows([
      ["logit", [1, 3, 3], "number"],
      ["logprob", [-1, -2, -3], "number"],
      ["logprob_per_byte", [null, null, null], "number"],
    ]);
    const scores = scoresOf(rows, "mcq-prompt", "letter");
    expect(scores.map((score) => [score.name, score.decides, score.best])).toEqual([
      ["letter", true, 1],
      ["text", false, 0],
    ]);
    expect(scoresOf(rows, "mcq-encoder", "head").map((score) => score.name)).toEqual(["head", "text"]);
  });
});
