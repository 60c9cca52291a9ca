// Where a row of the selection leads: the places that its keys name.

import type { Rows } from "../api/rows";
import type { Place } from "../url/codec";
import { keyOf, type Key } from "./selection";

/** Pages whose address begins with run, example and sequence. */
const OF_TEXTS = new Set(["text", "attention"]);
/** Pages whose address begins with a run alone. */
const OF_RUNS = new Set(["heads", "runs", "effects", "circuits"]);

/** This page at another row; undefined where the page shows nothing that the row names. */
export function placeOfRow(place: Place, rows: Rows, row: number): Place | undefined {
  const key = keyOf(rows, row);
  const params = { ...place.params, ...chosenIn(key), row: String(row) };
  if (OF_TEXTS.has(place.page)) {
    const parts = partsOfText(key);
    return parts ? { page: place.page, parts, params } : undefined;
  }
  const example = key.example_id;
  if (place.page === "choices" && key.run_id !== undefined && example !== undefined) {
    return { page: place.page, parts: [key.run_id, example].map(String), params };
  }
  if (place.page === "diff" && place.parts.length >= 2 && example !== undefined) {
    return { page: place.page, parts: [...place.parts.slice(0, 2), String(example), String(key.seq ?? 0)], params };
  }
  if (place.page === "features" && key.run_id !== undefined && example !== undefined) {
    return { page: place.page, parts: [String(key.run_id)], params: { ...params, example: String(example), s: String(key.seq ?? 0) } };
  }
  if (OF_RUNS.has(place.page) && key.run_id !== undefined) return { page: place.page, parts: [String(key.run_id)], params };
  return undefined;
}

/** What a row chooses on a page: position, layer and head as its keys say. */
export function chosenIn(key: Key): Record<string, string> {
  const named = [
    ["pos", key.pos],
    ["l", key.layer],
    ["h", key.head],
  ] as const;
  return Object.fromEntries(named.flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])));
}

/** Run, example and sequence of a row; undefined where it does not name a text. */
export function partsOfText(key: Key): string[] | undefined {
  return key.run_id === undefined || key.example_id === undefined ? undefined : [key.run_id, key.example_id, key.seq ?? 0].map(String);
}

export interface Link {
  title: string;
  place: Place;
}

/** The pages that a row leads to; `kept` goes along in their addresses: the question and its conditions. */
export function linksOf(key: Key, kept: Record<string, string>): Link[] {
  const params = { ...kept, ...chosenIn(key) };
  const links: Link[] = [];
  const parts = partsOfText(key);
  if (parts) {
    links.push({ title: "Text", place: { page: "text", parts, params } });
    links.push({ title: "Attention", place: { page: "attention", parts, params } });
    if (key.pos !== undefined) {
      links.push({ title: "Nearest", place: { page: "text", parts, params: { ...params, panel: "nearest" } } });
      const [run = "", example = "", seq = "0"] = parts;
      links.push({ title: "Features", place: { page: "features", parts: [run], params: { ...params, example, s: seq } } });
    }
  }
  if (key.run_id !== undefined) {
    const run = [String(key.run_id)];
    links.push({ title: "Heads", place: { page: "heads", parts: run, params } });
    links.push({ title: "Run", place: { page: "runs", parts: run, params: kept } });
  }
  return links;
}
