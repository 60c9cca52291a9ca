import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { scoreLines } from "./scores";

describe("the scores of a text", () => {
  it("are a line each, with what they were held against", () => {
    const rows = new Rows([
      ["scorer", ["match", "style"], "text"],
      ["metric", ["score", "wit"], "text"],
      ["score", ["I", "0.5"], "text"],
      ["is_correct", [false, null], "truth"],
      ["target", ["Paris", null], "text"],
      ["answer", ["Rome", null], "text"],
      ["explanation", ["Not it.", null], "text"],
      ["answered_by", ["some/model", "some/model"], "text"],
    ]);
    expect(scoreLines(rows)).toEqual([
      { name: "match", right: false, text: "match: I, target Paris, answer Rome, by some/model", explanation: "Not it." },
      { name: "style wit", right: null, text: "style wit: 0.5, by some/model", explanation: "" },
    ]);
  });
});
