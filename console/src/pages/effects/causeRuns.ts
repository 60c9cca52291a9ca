// The runs that tell of causes, and in which view each is looked at.

import type { Rows, Value } from "../../api/rows";

export type View = "heads" | "positions" | "influence";

export interface CauseRun {
  run: string;
  kind: string;
  /** The task's run, or the one that is explained. */
  source: string;
  task: string;
  kinds: string[];
  sites: string[];
  view: View;
}

export function causeRuns(rows: Rows): CauseRun[] {
  return Array.from({ length: rows.length }, (_, row) => ({
    run: rows.text(row, "run_id"),
    kind: rows.text(row, "kind"),
    source: rows.text(row, "source_run_id"),
    task: rows.text(row, "task"),
    kinds: texts(rows.get(row, "kinds")),
    sites: texts(rows.get(row, "sites")),
    view: rows.text(row, "kind") === "influence" ? "influence" : rows.get(row, "by_position") === true ? "positions" : "heads",
  }));
}

/** The run that an address means: itself, else the newest that was made from it (about heads, if there is one), else the newest. */
export function meant(runs: readonly CauseRun[], name: string | undefined): CauseRun | undefined {
  const fits = (some: readonly CauseRun[]) => some.find((each) => each.view === "heads") ?? some[0];
  if (name === undefined) return fits(runs);
  return runs.find((each) => each.run === name) ?? fits(runs.filter((each) => each.source === name));
}

/** The ablations to show beside a run: of the same task, by head or block. */
export function besides(runs: readonly CauseRun[], run: CauseRun): CauseRun[] {
  return runs.filter((each) => each.view === "heads" && each.source === run.source);
}

/** What a run is, in a few words. */
export function inWords(run: CauseRun): string {
  if (run.view === "influence") return "influence";
  return `${run.kind}: ${[...run.kinds, ...run.sites].join(", ")}`;
}

function texts(value: Value): string[] {
  return value === null ? [] : Array.from(value as ArrayLike<string>);
}
