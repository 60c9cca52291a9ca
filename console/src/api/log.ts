// What the page asked the server, the newest first: its statements, how long each took, and what came of it.

import { createStore } from "../env/store";

export interface LogEntry {
  id: number;
  method: string;
  path: string;
  body: unknown;
  /** When it was asked, in milliseconds since 1970. */
  began: number;
  /** From the click to the read answer, milliseconds. */
  ms: number;
  /** ok, or what went wrong. */
  outcome: string;
  rows?: number | undefined;
  sql?: string[] | undefined;
}

const MOST = 500;

export const log = createStore<readonly LogEntry[]>([]);
let last = 0;

export function addToLog(entry: Omit<LogEntry, "id">): void {
  last += 1;
  log.set([{ ...entry, id: last }, ...log.get()].slice(0, MOST));
}

export function clearLog(): void {
  log.set([]);
}
