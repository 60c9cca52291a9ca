// The question that is asked: the address has it (`q`, and `where` with a condition a line), on whatever page; its rows are the selection.

import { ApiError, postJson, postRows } from "../api/client";
import type { Rows } from "../api/rows";
import { createStore } from "../env/store";
import { forgetQuestion } from "../url/remembered";
import { focus, select, selection } from "./selection";

export interface Asked {
  /** The whole statement; of a saved query, once it is answered. */
  sql: string;
  /** The name of the saved query that it comes from. */
  saved?: string | undefined;
  /** Its rows; of the one before while it is on its way. */
  rows: Rows | undefined;
  error: ApiError | undefined;
  /** When it was asked (`performance.now()`); undefined once it is answered. */
  since: number | undefined;
  /** From the question to its rows, milliseconds. */
  ms: number | undefined;
}

/** How many rows are sent at most: more are to be asked for as aggregates. */
export const MOST_ROWS = 10_000;

export const asked = createStore<Asked | null>(null);
let running: { abort: AbortController; id: string } | null = null;

/** Asks, and drops the question before; its rows become the selection. */
export async function ask(sql: string): Promise<void> {
  const id = crypto.randomUUID();
  await run({ sql }, id, (signal) => postRows("sql", { sql, limit: MOST_ROWS, id }, signal));
}

/** Runs a saved query. Returns its SQL with the values in it, or undefined where it failed. */
export async function askSaved(name: string, values: Record<string, string>): Promise<string | undefined> {
  const id = crypto.randomUUID();
  return run({ sql: "", saved: name }, id, (signal) => postRows("query", { name, values, limit: MOST_ROWS, id }, signal));
}

async function run(question: { sql: string; saved?: string }, id: string, load: (signal: AbortSignal) => Promise<Rows>): Promise<string | undefined> {
  stop();
  const abort = new AbortController();
  const mine = { abort, id };
  running = mine;
  const since = performance.now();
  asked.set({ ...question, rows: asked.get()?.rows, error: undefined, since, ms: undefined });
  try {
    const rows = await load(abort.signal);
    if (running !== mine) return undefined;
    running = null;
    const sql = question.saved === undefined ? question.sql : (rows.notes.sql?.[0] ?? "");
    asked.set({ ...question, sql, rows, error: undefined, since: undefined, ms: performance.now() - since });
    select(rows, sql);
    if (focus.get() >= rows.length) focus.set(-1);
    return sql;
  } catch (problem) {
    if (running !== mine) return undefined;
    running = null;
    const error = problem instanceof ApiError ? problem : new ApiError(String(problem), 0, { kind: "page" });
    asked.set({ ...question, rows: undefined, error, since: undefined, ms: performance.now() - since });
    selection.set(null);
    return undefined;
  }
}

/** Stops the question that is on its way, on the server too. */
export function stop(): void {
  if (!running) return;
  const { abort, id } = running;
  running = null;
  abort.abort();
  void postJson(`sql?id=${encodeURIComponent(id)}`, undefined, undefined, "DELETE").catch(() => undefined);
  const before = asked.get();
  if (before) {
    const error = new ApiError("Stopped.", 0, { kind: "stopped" });
    asked.set({ ...before, error, since: undefined, ms: before.since === undefined ? undefined : performance.now() - before.since });
  }
}

/** Lets go of the selection. */
export function letGo(): void {
  stop();
  forgetQuestion();
  asked.set(null);
  selection.set(null);
  focus.set(-1);
}
