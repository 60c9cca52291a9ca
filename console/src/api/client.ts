// The one place that speaks with the server: every answer is timed and kept in the log of the page's own queries.

import { token } from "../env/token";
import { addToLog } from "./log";
import { rowsFromArrow, type Rows } from "./rows";

export type Params = Record<string, string | number | boolean | undefined | null>;

/** An answer other than the one that was asked for. */
export class ApiError extends Error {
  readonly status: number;
  /** not_found, usage, sql, empty, damaged, gone, offline */
  readonly kind: string;
  /** A command that mends it. */
  readonly hint: string | undefined;
  readonly details: Record<string, unknown>;

  constructor(message: string, status: number, details: Record<string, unknown> = {}) {
    super(message);
    this.status = status;
    this.kind = typeof details["kind"] === "string" ? details["kind"] : status === 0 ? "offline" : "other";
    this.hint = typeof details["hint"] === "string" ? details["hint"] : undefined;
    this.details = details;
  }
}

/** A matrix as its bytes, and what they are. */
export interface Tile {
  values: Uint8Array | Float32Array;
  about: { shape: number[]; dtype: string; [key: string]: unknown };
}

export function pathWith(path: string, params: Params = {}): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    if (value !== undefined && value !== null && value !== "") query.set(key, String(value));
  }
  const text = query.toString();
  return `/api/${path}${text ? `?${text}` : ""}`;
}

export async function getRows(path: string, params: Params, signal?: AbortSignal): Promise<Rows> {
  return ask("GET", pathWith(path, params), undefined, signal, async (response) => rowsFromArrow(await response.arrayBuffer()));
}

export async function postRows(path: string, body: unknown, signal?: AbortSignal): Promise<Rows> {
  return ask("POST", pathWith(path), body, signal, async (response) => rowsFromArrow(await response.arrayBuffer()));
}

export async function getJson<T>(path: string, params: Params = {}, signal?: AbortSignal): Promise<T> {
  return ask("GET", pathWith(path, params), undefined, signal, async (response) => (await response.json()) as T);
}

export async function postJson<T>(path: string, body: unknown, signal?: AbortSignal, method: "POST" | "DELETE" = "POST"): Promise<T> {
  return ask(method, pathWith(path), body, signal, async (response) => (await response.json()) as T);
}

export async function getTile(path: string, params: Params, signal?: AbortSignal): Promise<Tile> {
  return ask("GET", pathWith(path, params), undefined, signal, async (response) => {
    const about = JSON.parse(response.headers.get("X-Tile") ?? "{}") as Tile["about"];
    const bytes = await response.arrayBuffer();
    return { about, values: about.dtype === "float32" ? new Float32Array(bytes) : new Uint8Array(bytes) };
  });
}

export function authorised(): Record<string, string> {
  return { Authorization: `Bearer ${token()}` };
}

async function ask<T>(
  method: string,
  path: string,
  body: unknown,
  signal: AbortSignal | undefined,
  read: (response: Response) => Promise<T>,
): Promise<T> {
  const began = performance.now();
  const headers = { ...authorised(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const entry = { method, path, body, began: Date.now() };
  let response: Response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (problem) {
    if (signal?.aborted) throw problem;
    addToLog({ ...entry, ms: performance.now() - began, outcome: "no answer" });
    throw new ApiError("The server does not answer. Is traces console still running?", 0);
  }
  const empty = response.headers.has("X-Empty");
  if (!response.ok || empty) {
    const details = await errorOf(response);
    const message = typeof details["error"] === "string" ? details["error"] : `The server answered ${response.status}.`;
    addToLog({ ...entry, ms: performance.now() - began, outcome: message });
    throw new ApiError(message, empty ? 404 : response.status, details);
  }
  const answer = await read(response);
  const rows = answer as unknown as Partial<Rows>;
  addToLog({ ...entry, ms: performance.now() - began, outcome: "ok", rows: rows.length, sql: rows.notes?.sql });
  return answer;
}

async function errorOf(response: Response): Promise<Record<string, unknown>> {
  if (response.status === 401) {
    return { error: "This page has no valid token. Open the address that traces console printed.", kind: "token" };
  }
  try {
    return (await response.json()) as Record<string, unknown>;
  } catch {
    return {};
  }
}
