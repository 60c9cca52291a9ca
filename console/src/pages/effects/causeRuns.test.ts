import { describe, expect, it } from "vitest";
import { besides, meant, type CauseRun } from "./causeRuns";

function made(run: string, source: string, view: CauseRun["view"]): CauseRun {
  return { run, source, view, kind: "", task: "", kinds: [], sites: [] };
}

const runs = [made("patched", "ioi", "positions"), made("zero", "ioi", "heads"), made("cut", "years", "heads"), made("why", "wt2", "influence")];

describe("the run that an address means", () => {
  it("is the one named, or one that was made from it", () => {
    expect(meant(runs, "patched")?.run).toBe("patched");
    expect(meant(runs, "ioi")?.run).toBe("zero");
    expect(meant(runs, "wt2")?.run).toBe("why");
    expect(meant(runs, undefined)?.run).toBe("zero");
    expect(meant(runs, "gone")).toBeUndefined();
  });

  it("has those of the same task beside it", () => {
    expect(besides(runs, runs[1] as CauseRun).map((each) => each.run)).toEqual(["zero"]);
  });
});
