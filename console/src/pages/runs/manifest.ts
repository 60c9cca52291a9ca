// What the server tells of one run.

import { getJson } from "../../api/client";
import { useAnswer, type Answer } from "../../api/useAnswer";

export interface Site {
  side: string;
  site: string;
  shape: string;
  dtype: string;
  origin: string;
  note: string;
}

export interface Manifest {
  run_id: string;
  kind: string;
  parents: string[];
  created_at: string;
  seconds: number;
  model: Record<string, unknown> | null;
  data: Record<string, unknown> | null;
  options: Record<string, unknown>;
  counts: Record<string, unknown> & { rows: Record<string, number> };
  mean_loss: number | null;
  perplexity: number | null;
  bytes: number;
  files: { path: string; bytes: number }[];
  versions: Record<string, string>;
  schema_version: number;
}

export interface Told {
  manifest: Manifest;
  arrays: Site[];
  children: { run_id: string; kind: string }[];
}

export function useManifest(run: string | null): Answer<Told> {
  return useAnswer(run === null ? null : `manifest ${run}`, (signal) => getJson<Told>("manifest", { run: run ?? "" }, signal));
}

/** Bytes by the folder that they are in: tables by name, tensors as blobs; the largest first. */
export function bytesByFolder(manifest: Manifest): { name: string; bytes: number; files: number; rows: number | undefined }[] {
  const folders = new Map<string, { bytes: number; files: number }>();
  for (const { path, bytes } of manifest.files) {
    const [name = ""] = path.split("/");
    const before = folders.get(name) ?? { bytes: 0, files: 0 };
    folders.set(name, { bytes: before.bytes + bytes, files: before.files + 1 });
  }
  return [...folders]
    .map(([name, of]) => ({ name, ...of, rows: manifest.counts.rows[name] }))
    .sort((a, b) => b.bytes - a.bytes);
}

/** What a part of a manifest says, as names and texts; nothing for what is empty. */
export function saidIn(part: Record<string, unknown> | null, without: readonly string[] = []): [string, string][] {
  return Object.entries(part ?? {}).flatMap(([name, value]): [string, string][] => {
    if (without.includes(name) || value === null || value === undefined || value === "") return [];
    if (typeof value === "number") return [[name, asNumber(value)]];
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return text === "[]" || text === "{}" ? [] : [[name, text]];
  });
}

function asNumber(value: number): string {
  return value.toLocaleString("en-US", { maximumFractionDigits: 8, useGrouping: Math.abs(value) >= 10_000 });
}
