import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { fittingRuns } from "./fitting";

const runs = new Rows([
  ["run_id", ["seen-lens", "asked", "seen"], "text"],
  ["kind", ["lens", "mcq-prompt", "next-token"], "text"],
  ["parents", [["seen"], [], []], "other"],
  ["tables", [["logit_lens"], ["next_token", "choices"], ["next_token"]], "other"],
]);
const query = { name: "", title: "", sql: "", variables: [] };
const run = { name: "run", kind: null, says: "" };

describe("the runs that fit a saved query", () => {
  it("have the tables that it needs, themselves or through what was made of them", () => {
    expect(fittingRuns(runs, { ...query, needs: ["next_token"] }, run)).toEqual(["asked", "seen"]);
    expect(fittingRuns(runs, { ...query, needs: ["logit_lens"] }, run)).toEqual(["seen-lens", "seen"]);
    expect(fittingRuns(runs, { ...query, needs: [] }, { ...run, kind: "mcq-prompt" })).toEqual(["asked"]);
    expect(fittingRuns(runs, { ...query, needs: ["labels"] }, run)).toEqual([]);
  });
});
