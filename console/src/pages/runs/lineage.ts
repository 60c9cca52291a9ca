// What a run was made of and what was made of it, in columns: every run stands right of all that it was made of.

import type { Rows, Value } from "../../api/rows";

export interface Node {
  run: string;
  kind: string;
  column: number;
  line: number;
  /** Whether it is a run of the warehouse still. */
  there: boolean;
}

export interface Lineage {
  nodes: Node[];
  edges: [from: string, to: string][];
  columns: number;
  lines: number;
  /** How many runs are related in all. */
  total: number;
}

/** Runs in one column, at most: the others are counted. */
const MOST_LINES = 30;

export function lineage(runs: Rows, run: string): Lineage {
  const parents = new Map<string, string[]>();
  const kinds = new Map<string, string>();
  for (let row = runs.length - 1; row >= 0; row -= 1) {
    const name = runs.text(row, "run_id");
    parents.set(name, listOf(runs.get(row, "parents")));
    kinds.set(name, runs.text(row, "kind"));
  }
  const children = new Map<string, string[]>();
  for (const [child, of] of parents) for (const parent of of) children.set(parent, [...(children.get(parent) ?? []), child]);
  const related = new Set([...reached(run, parents), ...reached(run, children)]);
  const column = new Map<string, number>();
  const columnOf = (name: string, path: readonly string[]): number => {
    const known = column.get(name);
    if (known !== undefined) return known;
    const of = (parents.get(name) ?? []).filter((parent) => related.has(parent) && !path.includes(parent));
    const found = of.length === 0 ? 0 : 1 + Math.max(...of.map((parent) => columnOf(parent, [...path, name])));
    column.set(name, found);
    return found;
  };
  for (const name of related) columnOf(name, []);
  const nodes: Node[] = [];
  const columns = Math.max(...column.values()) + 1;
  const line = new Map<string, number>();
  for (let at = 0; at < columns; at += 1) {
    const here = [...related].filter((name) => column.get(name) === at);
    const meant = new Map(here.map((name, place) => [name, mean((parents.get(name) ?? []).flatMap((parent) => line.get(parent) ?? [])) ?? place]));
    here.sort((a, b) => (meant.get(a) ?? 0) - (meant.get(b) ?? 0));
    const shown = here.filter((name, place) => place < MOST_LINES || name === run).slice(-MOST_LINES);
    shown.forEach((name, place) => {
      line.set(name, place);
      nodes.push({ run: name, kind: kinds.get(name) ?? "", column: at, line: place, there: parents.has(name) });
    });
  }
  const edges = nodes.flatMap(({ run: to }) =>
    (parents.get(to) ?? []).filter((from) => line.has(from)).map((from): [string, string] => [from, to]),
  );
  return { nodes, edges, columns, lines: Math.max(...nodes.map((node) => node.line)) + 1, total: related.size };
}

function reached(run: string, by: ReadonlyMap<string, string[]>): Set<string> {
  const found = new Set([run]);
  for (const name of found) for (const next of by.get(name) ?? []) found.add(next);
  return found;
}

function listOf(value: Value): string[] {
  return Array.isArray(value) ? value.map(String) : [];
}

function mean(values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length;
}
