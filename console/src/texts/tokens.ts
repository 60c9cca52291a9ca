// The tokens of /api/strip, for the views that draw them.

import type { Rows, Value } from "../api/rows";
import type { StripToken } from "../components/Strip";

export function stripTokens(rows: Rows): StripToken[] {
  return Array.from({ length: rows.length }, (_, row) => ({ text: rows.text(row, "token"), role: roleOf(rows, row), turn: rows.number(row, "turn"), speaker: rows.text(row, "role") }));
}

function roleOf(rows: Rows, row: number): StripToken["role"] {
  if (rows.get(row, "is_special") === true) return "special";
  if (rows.get(row, "is_context") === true) return "context";
  return rows.get(row, "is_response") === true ? "response" : "";
}

export interface Guess {
  token: string;
  prob: number;
}

/** The most likely tokens of a prediction, the likeliest first. `prefix` is `next_` for what is predicted after a token. */
export function guessesOf(rows: Rows, row: number, prefix: "" | "next_" = ""): Guess[] {
  return guesses(rows.get(row, `${prefix}topk_tokens`), rows.get(row, `${prefix}topk_probs`));
}

export function guesses(tokens: Value, probs: Value): Guess[] {
  if (tokens === null || probs === null) return [];
  const of = Array.from(probs as ArrayLike<number>);
  return Array.from(tokens as ArrayLike<string>, (token, place) => ({ token, prob: of[place] ?? 0 }));
}
