import { expect, it } from "vitest";
import type { Told } from "./manifest";
import { pagesOf } from "./pagesOf";

function told(kind: string, rows: Record<string, number>, sites: string[], children: string[]): Told {
  return {
    manifest: { kind, counts: { rows } } as unknown as Told["manifest"],
    arrays: sites.map((site) => ({ side: "dec", site, shape: "", dtype: "F32", origin: "stored", note: "" })),
    children: children.map((name) => ({ run_id: name, kind: name })),
  };
}

it("leads to the pages that show something of a run", () => {
  expect(pagesOf(told("task", { tokens: 8, next_token: 7 }, ["resid.pre_attn", "q"], ["patching", "circuit"])).map(([page]) => page)).toEqual(["text", "effects", "circuits", "diff"]);
  expect(pagesOf(told("next-token", { tokens: 8, heads: 3 }, ["attn"], ["lens"])).map(([page]) => page)).toEqual(["text", "attention", "heads"]);
  expect(pagesOf(told("mcq-prompt", { tokens: 8, choices: 5 }, [], [])).map(([page]) => page)).toEqual(["text", "choices"]);
  expect(pagesOf(told("lens", { tokens: 0 }, [], []))).toEqual([]);
});
