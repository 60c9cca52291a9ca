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

const RETRY_MS = 2000;

export function followEvents(): void {
  void follow();
}

async function follow(): Promise<never> {
  for (;;) {
    try {
      const response = await fetch("/api/events", { headers: authorised() });
      if (response.ok && response.body) {
        connected.set(true);
        await read(response.body);
      }
    } catch {
      // the server is gone; it is asked again below
    }
    connected.set(false);
    await new Promise((resume) => setTimeout(resume, RETRY_MS));
  }
}

async function read(stream: ReadableStream<BufferSource>): Promise<void> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    pending += value;
    const parts = pending.split("\n\n");
    pending = parts.pop() ?? "";
    for (const part of parts) take(part);
  }
}

function take(event: string): void {
  const lines = event.split("\n");
  const kind = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "message";
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
  if (kind === "version" && data) change.set(JSON.parse(data) as Change);
}
