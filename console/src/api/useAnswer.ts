// An answer of the server, for a component: asked again when its key changes, the older request aborted, the last answers kept.

import { useEffect, useState } from "react";
import { useStore } from "../env/store";
import { ApiError } from "./client";
import { edition } from "./events";

export interface Answer<T> {
  /** The newest answer; while another is on its way, the one before, so that nothing jumps. */
  data: T | undefined;
  error: ApiError | undefined;
  /** Whether the answer has been on its way for longer than one would notice. */
  waiting: boolean;
  /** Whether `data` is of this key, and not of the one before. */
  current: boolean;
}

const NOTICED_MS = 150;
const KEPT = 200;
const kept = new Map<string, unknown>();

/**
 * @param key What is asked, in short; null asks nothing.
 * @param load Asks it.
 */
export function useAnswer<T>(key: string | null, load: (signal: AbortSignal) => Promise<T>): Answer<T> {
  const counted = useStore(edition);
  const full = key === null ? null : `${counted} ${key}`;
  const [state, setState] = useState<{ key: string | null; data: T | undefined; error: ApiError | undefined }>({
    key: null,
    data: undefined,
    error: undefined,
  });
  const [late, setLate] = useState<string | null>(null);
  const known = full === null ? undefined : (kept.get(full) as T | undefined);
  if (known !== undefined && state.key !== full) setState({ key: full, data: known, error: undefined }); // stays while the next comes

  useEffect(() => {
    if (full === null || kept.has(full)) return;
    const abort = new AbortController();
    const timer = setTimeout(() => setLate(full), NOTICED_MS);
    load(abort.signal)
      .then((data) => {
        keep(full, data);
        setState({ key: full, data, error: undefined });
      })
      .catch((problem: unknown) => {
        if (abort.signal.aborted) return;
        const error = problem instanceof ApiError ? problem : new ApiError(String(problem), 0, { kind: "page" });
        setState((before) => ({ key: full, data: error.status === 404 ? undefined : before.data, error }));
      })
      .finally(() => clearTimeout(timer));
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the key says what `load` asks
  }, [full]);

  if (full === null) return { data: undefined, error: undefined, waiting: false, current: true };
  if (known !== undefined) return { data: known, error: undefined, waiting: false, current: true };
  const current = state.key === full;
  return { data: state.data, error: current ? state.error : undefined, waiting: !current && late === full, current };
}

function keep(key: string, data: unknown): void {
  kept.set(key, data);
  for (const oldest of kept.keys()) {
    if (kept.size <= KEPT) break;
    kept.delete(oldest);
  }
}
