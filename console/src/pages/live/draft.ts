// What is typed on the live page; it stays when another page is looked at.

import { createStore } from "../../env/store";
import type { Cut, Job, Sampling, Turn } from "./live";

export interface Draft extends Sampling {
  chat: boolean;
  prompt: string;
  turns: Turn[];
  /** What is cut together; `next` alone while nothing was added. */
  cuts: Cut[];
  next: { what: Cut["what"]; layer: number; head: number };
  trait: string;
  layer: number | null;
  coefficient: number;
}

export const draft = createStore<Draft>({
  chat: false,
  prompt: "",
  turns: [{ role: "user", content: "" }],
  max_new_tokens: 50,
  temperature: 0.7,
  seed: 0,
  cuts: [],
  next: { what: "head", layer: 0, head: 0 },
  trait: "",
  layer: null,
  coefficient: 2,
});

export function change(changes: Partial<Draft>): void {
  draft.set({ ...draft.get(), ...changes });
}

/** The draft as a job that reads it; null while nothing is typed. */
export function captureJob(of: Draft): Job | null {
  if (!of.chat) return of.prompt.trim() ? { kind: "capture", prompt: of.prompt } : null;
  const turns = of.turns.filter((turn) => turn.content.trim());
  return turns.length > 0 ? { kind: "capture", turns } : null;
}

export function sampling({ max_new_tokens, temperature, seed }: Draft): Sampling {
  return { max_new_tokens, temperature, seed };
}

/** A cut more; one that is there already changes nothing. */
export function withCut(cuts: readonly Cut[], cut: Cut): Cut[] {
  const same = cuts.some((each) => each.what === cut.what && each.layer === cut.layer && each.head === cut.head);
  return same ? [...cuts] : [...cuts, cut];
}
