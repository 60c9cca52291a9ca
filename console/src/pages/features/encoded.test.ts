import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { besides, encodedAs, encodedIn, sqlOfToken } from "./encoded";

const known = encodedIn(
  new Rows([
    ["run_id", ["new", "new", "old", "else"], "text"],
    ["source_run_id", ["texts", "texts", "texts", "others"], "text"],
    ["sae", ["a", "b", "a", "a"], "text"],
    ["side", ["dec", "dec", "dec", "enc"], "text"],
  ]),
);

describe("what an address means", () => {
  it("is the newest run of features of a run, by its first dictionary or the one that is named", () => {
    expect(encodedAs(known, "texts", undefined)).toMatchObject({ run: "new", sae: "a" });
    expect(encodedAs(known, "texts", "b")).toMatchObject({ run: "new", sae: "b" });
    expect(encodedAs(known, "old", undefined)).toMatchObject({ run: "old", sae: "a" });
    expect(encodedAs(known, "old", "b")).toBeUndefined();
    expect(encodedAs(known, "none", undefined)).toBeUndefined();
  });

  it("leaves all dictionaries of the run to choose from", () => {
    const of = encodedAs(known, "old", "a");
    expect(of && besides(known, of).map(({ run, sae }) => `${run} ${sae}`)).toEqual(["new a", "new b", "old a"]);
  });

  it("selects a token by a question", () => {
    const of = encodedAs(known, "others", undefined);
    expect(of && sqlOfToken(of, { example: "it's", seq: 0, pos: 5 })).toBe(
      "SELECT run_id, example_id, seq, pos, token FROM tokens WHERE run_id = 'others' AND example_id = 'it''s' AND seq = 0 AND pos = 5 AND side = 'enc'",
    );
  });
});
