import { expect, test } from "vitest";
import { captureJob, draft, withCut } from "./draft";
import { written } from "./live";

test("a draft is a job only where something is typed, and empty turns are left out", () => {
  const empty = draft.get();
  expect(captureJob(empty)).toBeNull();
  expect(captureJob({ ...empty, prompt: "  " })).toBeNull();
  expect(captureJob({ ...empty, prompt: " x " })).toEqual({ kind: "capture", prompt: " x " });
  const turns = [
    { role: "user" as const, content: "Hello" },
    { role: "assistant" as const, content: "" },
  ];
  expect(captureJob({ ...empty, chat: true, turns })).toEqual({ kind: "capture", turns: [turns[0]] });
});

test("cuts are written as interventions are, each once", () => {
  const cuts = withCut([{ what: "head", layer: 1, head: 2 }], { what: "mlp", layer: 0 });
  expect(withCut(cuts, { what: "mlp", layer: 0 }).map(written)).toEqual(["L1H2", "M0"]);
  expect(written({ what: "attention", layer: 3 })).toBe("A3");
});
