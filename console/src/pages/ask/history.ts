// The questions that were asked in this browser, the newest first.

import { createStore } from "../../env/store";

export interface Past {
  sql: string;
  /** When, in milliseconds since 1970. */
  when: number;
}

const KEY = "traces-questions";
const MOST = 100;

export const past = createStore<readonly Past[]>(read());

export function rememberQuestion(sql: string): void {
  const others = past.get().filter((each) => each.sql !== sql);
  keep([{ sql, when: Date.now() }, ...others].slice(0, MOST));
}

export function forgetQuestions(): void {
  keep([]);
}

function keep(questions: readonly Past[]): void {
  past.set(questions);
  localStorage.setItem(KEY, JSON.stringify(questions));
}

function read(): Past[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isPast) : [];
  } catch {
    return []; // written by something else
  }
}

function isPast(value: unknown): value is Past {
  return typeof value === "object" && value !== null && "sql" in value && typeof value.sql === "string" && "when" in value && typeof value.when === "number";
}
