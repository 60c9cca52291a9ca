// Rows, tiles and JSON of an endpoint, for a component; null asks nothing.

import { getJson, getRows, getTile, pathWith, type Params, type Tile } from "./client";
import type { Rows } from "./rows";
import { useAnswer, type Answer } from "./useAnswer";

export function useRows(path: string, params: Params | null): Answer<Rows> {
  return useAnswer(params && pathWith(path, params), (signal) => getRows(path, params ?? {}, signal));
}

export function useTile(path: string, params: Params | null): Answer<Tile> {
  return useAnswer(params && pathWith(path, params), (signal) => getTile(path, params ?? {}, signal));
}

export function useJson<T>(path: string, params: Params | null): Answer<T> {
  return useAnswer(params && pathWith(path, params), (signal) => getJson<T>(path, params ?? {}, signal));
}
