// Which runs a saved query can be asked about: those of the kind that it names, with rows in the tables that it needs.

import type { Rows, Value } from "../../api/rows";
import type { SavedQuery, Variable } from "../../api/state";

/** Variables that name a run. */
export const OF_RUNS = new Set(["run", "other_run"]);

/** Kinds whose rows are about the run that they were made from, their first parent: naming either names the rows. */
const ABOUT_PARENT = new Set(["heads", "lens", "judge", "trait-projection", "ablation", "patching", "influence", "circuit-evaluation"]);

/** The names of the runs that fit a variable, the newest first. */
export function fittingRuns(runs: Rows, query: SavedQuery, variable: Variable): string[] {
  const tables = new Map<string, Set<string>>();
  for (let row = 0; row < runs.length; row += 1) {
    const own = list(runs.get(row, "tables"));
    add(tables, runs.text(row, "run_id"), own);
    const parent = list(runs.get(row, "parents"))[0];
    if (parent !== undefined && ABOUT_PARENT.has(runs.text(row, "kind"))) add(tables, parent, own);
  }
  const found: string[] = [];
  for (let row = 0; row < runs.length; row += 1) {
    const run = runs.text(row, "run_id");
    const fits = query.needs.every((table) => tables.get(run)?.has(table));
    if (fits && (variable.kind === null || variable.kind === runs.text(row, "kind"))) found.push(run);
  }
  return found;
}

function list(value: Value): string[] {
  return Array.isArray(value) ? value.map(String) : [];
}

function add(tables: Map<string, Set<string>>, run: string, more: readonly string[]): void {
  tables.set(run, new Set([...(tables.get(run) ?? []), ...more]));
}
