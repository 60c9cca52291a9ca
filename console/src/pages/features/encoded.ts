// The dictionaries that runs were encoded with, and what of one is looked at: #/features/RUN?sae=NAME&f=17&example=…&s=0&pos=5

import type { Rows } from "../../api/rows";
import { literal } from "../../selection/conditions";

/** A run that was encoded with a dictionary. */
export interface Encoded {
  /** The run of features. */
  run: string;
  /** The run whose states they are of. */
  source: string;
  sae: string;
  side: string;
  layer: number | null;
  site: string;
  outputSite: string;
  architecture: string;
  features: number;
  width: number;
  trainedOn: string;
  model: string;
}

/** A token of the run that was encoded. */
export interface Token {
  example: string;
  seq: number;
  pos: number;
}

export function encodedIn(rows: Rows): Encoded[] {
  return Array.from({ length: rows.length }, (_, row) => ({
    run: rows.text(row, "run_id"),
    source: rows.text(row, "source_run_id"),
    sae: rows.text(row, "sae"),
    side: rows.text(row, "side"),
    layer: rows.number(row, "layer"),
    site: rows.text(row, "site"),
    outputSite: rows.text(row, "output_site"),
    architecture: rows.text(row, "architecture"),
    features: rows.number(row, "n_features") ?? 0,
    width: rows.number(row, "width") ?? 0,
    trainedOn: rows.text(row, "trained_on"),
    model: rows.text(row, "model"),
  }));
}

/** What an address means: the newest of a run, or the dictionary that it names; undefined where there is none. */
export function encodedAs(known: readonly Encoded[], run: string, sae: string | undefined): Encoded | undefined {
  return known.find((each) => (each.run === run || each.source === run) && (sae === undefined || each.sae === sae));
}

/** The same run by whatever dictionary. */
export function besides(known: readonly Encoded[], of: Encoded): Encoded[] {
  return known.filter((each) => each.source === of.source);
}

/** The question that selects a token. */
export function sqlOfToken(of: Encoded, { example, seq, pos }: Token): string {
  return (
    `SELECT run_id, example_id, seq, pos, token FROM tokens WHERE run_id = ${literal(of.source)} ` +
    `AND example_id = ${literal(example)} AND seq = ${seq} AND pos = ${pos} AND side = ${literal(of.side)}`
  );
}
