// The run, example and sequence that were looked at last, and the question that was asked last: a tab opens on them.

import { currentPlace } from "./place";
import { COMMON, type Place } from "./codec";

/** Pages whose address begins with run, example, sequence. */
const OF_TEXTS = new Set(["text", "attention", "runs", "heads"]);
let last: readonly string[] = [];
let question: Readonly<Record<string, string>> = {};

export function remember(place: Place): void {
  if (OF_TEXTS.has(place.page) && place.parts.length > 0 && (place.parts[0] !== last[0] || place.parts.length > 1)) last = place.parts;
  if (place.params["q"] !== undefined) question = picked(place.params, COMMON);
}

/** The run that was looked at last. */
export function lookedAt(): string | undefined {
  return last[0];
}

/** Has tabs open without the question that was asked last. */
export function forgetQuestion(): void {
  question = {};
}

/** The place that a tab leads to. What is chosen (position, layer, head) and the question with its conditions and row go along. */
export function placeOf(page: { name: string; keeps: number }): Place {
  const { params } = currentPlace();
  const chosen = picked(params, [...COMMON, ...(page.keeps > 0 ? ["pos", "l", "h"] : [])]);
  return { page: page.name, parts: last.slice(0, page.keeps), params: params["q"] === undefined ? { ...question, ...chosen } : chosen };
}

function picked(params: Readonly<Record<string, string>>, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.flatMap((name) => (params[name] === undefined ? [] : [[name, params[name]]])));
}
