// The scores of a question's choices: what decides in a run, and what the others would have decided.

import type { Rows } from "../../api/rows";

export const SCORES = [
  ["letter", "logit", "logit of its letter"],
  ["head", "logit", "logit of the head"],
  ["text", "logprob", "log-probability of its text, nats"],
  ["byte", "logprob_per_byte", "the same by byte, nats a byte"],
] as const;

export interface Score {
  name: string;
  label: string;
  decides: boolean;
  /** A value a choice. */
  values: number[];
  /** Their softmax over the choices. */
  shares: number[];
  /** The choice with the highest, the first among equals. */
  best: number;
}

/** The scores that the choices of a question have; `kind` is that of the run, `decides` the score that is its answer. */
export function scoresOf(rows: Rows, kind: string, decides: string): Score[] {
  return SCORES.filter(([name]) => name !== (kind === "mcq-encoder" ? "letter" : "head")).flatMap(([name, column, label]) => {
    const values = Array.from({ length: rows.length }, (_, row) => rows.number(row, column));
    if (values.some((value) => value === null)) return [];
    const numbers = values as number[];
    return [{ name, label, decides: name === decides, values: numbers, shares: softmax(numbers), best: numbers.indexOf(Math.max(...numbers)) }];
  });
}

/** Shares that add up to 1. A choice that is ruled out has none; where all are, none has any. */
export function softmax(values: readonly number[]): number[] {
  const most = Math.max(...values);
  if (!Number.isFinite(most)) return values.map(() => 0);
  const parts = values.map((value) => Math.exp(value - most));
  const sum = parts.reduce((all, part) => all + part, 0);
  return parts.map((part) => part / sum);
}
