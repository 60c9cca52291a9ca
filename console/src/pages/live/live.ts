// The model that is loaded, and the job that it is at: what the server tells of them, and what is asked of it.

import { postJson } from "../../api/client";
import { readEvents } from "../../api/events";
import { createStore } from "../../env/store";

export interface About {
  model: string;
  dtype: string;
  layers: number;
  heads: number | null;
  chat: boolean;
  window: number | null;
}

export interface Turn {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Sampling {
  max_new_tokens: number;
  temperature: number;
  seed: number;
}

/** What adds nothing any more: a head, or the attention or MLP of a layer. */
export interface Cut {
  what: "head" | "attention" | "mlp";
  layer: number;
  head?: number;
}

export type Job =
  | { kind: "capture"; prompt: string }
  | { kind: "capture"; turns: Turn[] }
  | ({ kind: "generate"; prompt: string } & Sampling)
  | { kind: "ablate"; run: string; example: string; cuts: Cut[] }
  | ({ kind: "steer"; prompt: string; trait: string; layer: number; coefficient: number } & Sampling);

export interface JobState {
  job: number;
  kind: Job["kind"];
  status: "working" | "done" | "failed" | "cancelled";
  progress: { what: string; done: number; total: number; text?: string } | null;
  runs: { run: string; what: string }[];
  shows: { run: string; examples: string[]; clean?: string } | null;
  error: string | null;
}

export interface LiveState {
  model: string;
  status: "loading" | "ready" | "working" | "stopped";
  about: About | null;
  error: string | null;
  job: JobState | null;
  version: number;
}

/** The server has no model. */
export interface Off {
  status: "off";
  hint: string;
}

export const live = createStore<LiveState | null>(null);

const RETRY_MS = 1000;

/** Follows the model until the returned function is called. */
export function followLive(): () => void {
  const abort = new AbortController();
  void (async () => {
    while (!abort.signal.aborted) {
      await readEvents("/api/live/events", "state", (data) => live.set(data as LiveState), undefined, abort.signal);
      await new Promise((resume) => setTimeout(resume, RETRY_MS));
    }
  })();
  return () => abort.abort();
}

export async function submit(job: Job): Promise<number> {
  return (await postJson<{ job: number }>("live/jobs", job)).job;
}

export async function cancel(): Promise<void> {
  await postJson("live/jobs", undefined, undefined, "DELETE");
}

/** As interventions are written: L12H3=zero, M5=zero, A5=zero. */
export function written(cut: Cut): string {
  return cut.what === "head" ? `L${cut.layer}H${cut.head ?? 0}` : `${cut.what === "mlp" ? "M" : "A"}${cut.layer}`;
}
