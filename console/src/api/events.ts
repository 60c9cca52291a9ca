// What the server tells by itself: runs that come and go while the page is open.

import { createStore } from "../env/store";
import { authorised } from "./client";

export interface Change {
  version: string;
  runs: string[];
  came: string[];
  went: string[];
}

/** The runs that are there; a new version means that every answer may be another. */
export const change = createStore<Change>({ version: "", runs: [], came: [], went: [] });
export const connected = createStore(true);
/** How often the runs have changed since the page was opened: answers of another count may be others now. */
export const edition = createStore(0);

const RETRY_MS = 2000;

export function followEvents(): void {
  void follow();
}

async function follow(): Promise<never> {
  for (;;) {
    await readEvents("/api/events", "version", (data) => take(data as Change), connected.set);
    await new Promise((resume) => setTimeout(resume, RETRY_MS));
  }
}

/** Takes word of the runs. The first word only tells of which version the answers are that have been asked already. */
function take(told: Change): void {
  const before = change.get().version;
  change.set(told);
  if (before !== "" && before !== told.version) edition.set(edition.get() + 1);
}

/**
 * Reads server-sent events of one kind until the connection ends; `fetch` carries the token, which the browser's own reader cannot.
 *
 * Only a page that is shown listens: a browser has six connections to a server, and a stream in each of six tabs would take them all.
 *
 * @param take Given the data of each event.
 * @param tell Told whether the server answers.
 */
export async function readEvents(
  path: string,
  kind: string,
  take: (data: unknown) => void,
  tell: (reached: boolean) => void = () => undefined,
  signal: AbortSignal | null = null,
): Promise<void> {
  await shown();
  const hidden = new AbortController();
  const stop = (): void => {
    if (document.hidden) hidden.abort();
  };
  document.addEventListener("visibilitychange", stop);
  try {
    const ends = signal ? AbortSignal.any([signal, hidden.signal]) : hidden.signal;
    const response = await fetch(path, { headers: authorised(), signal: ends });
    if (response.ok && response.body) {
      tell(true);
      await read(response.body, kind, take);
    }
  } catch {
    // the server is gone, or nobody listens any more
  } finally {
    document.removeEventListener("visibilitychange", stop);
  }
  if (!hidden.signal.aborted) tell(false);
}

/** Waits until the page is shown. */
async function shown(): Promise<void> {
  while (document.hidden) {
    await new Promise((resume) => document.addEventListener("visibilitychange", resume, { once: true }));
  }
}

async function read(stream: ReadableStream<BufferSource>, kind: string, take: (data: unknown) => void): Promise<void> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    pending += value;
    const parts = pending.split("\n\n");
    pending = parts.pop() ?? "";
    for (const part of parts) {
      const data = dataOf(part, kind);
      if (data) take(JSON.parse(data));
    }
  }
}

/** The data of an event, if it is of a kind. */
function dataOf(event: string, kind: string): string {
  const lines = event.split("\n");
  const named = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "message";
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
  return named === kind ? data.join("\n") : "";
}
