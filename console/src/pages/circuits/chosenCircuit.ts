// Which circuit an address means: #/circuits/RUN?circuit=eap-ig&selection=abs&size=.01&node=L5H3

import type { Rows } from "../../api/rows";

export interface Circuit {
  run: string;
  name: string;
  task: string;
  /** The task's run, which has the prompts. */
  source: string;
  metric: string;
  method: string;
  level: string;
  edges: number;
  pairs: number | null;
}

export const SELECTIONS = [
  ["abs", "largest"],
  ["signed", "most helpful"],
  ["greedy", "from the logits"],
] as const;
export type Selection = (typeof SELECTIONS)[number][0];

export function selectionNamed(name: string | undefined): Selection {
  return SELECTIONS.find(([each]) => each === name)?.[0] ?? "abs";
}

export function circuitsOf(rows: Rows): Circuit[] {
  return Array.from({ length: rows.length }, (_, row) => ({
    run: rows.text(row, "run_id"),
    name: rows.text(row, "circuit"),
    task: rows.text(row, "task"),
    source: rows.text(row, "source_run_id"),
    metric: rows.text(row, "metric"),
    method: rows.text(row, "method"),
    level: rows.text(row, "level"),
    edges: rows.number(row, "n_edges") ?? 0,
    pairs: rows.number(row, "n_examples"),
  }));
}

/** The circuit of a run by its name; of a task's run the newest; of an evaluation the one that its first parent has. */
export function circuitMeant(circuits: readonly Circuit[], run: string | undefined, name: string | undefined, parent: string | undefined): Circuit | undefined {
  const own = circuits.filter((each) => run === undefined || each.run === run);
  const of = own.length > 0 ? own : circuits.filter((each) => each.run === parent || each.source === run);
  return of.find((each) => each.name === name) ?? of[0];
}
