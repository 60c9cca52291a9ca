// What the strip can be coloured by: a value a token, its scale, and what the legend says. A token's loss is that of the token itself.

import type { Rows } from "../../api/rows";
import { inShort } from "../../components/numbers";
import { around0, upTo, type Scale } from "../../colour/palette";

export interface Colouring {
  values: Float64Array;
  scale: Scale;
  label: string;
  transform?: string;
  ends?: readonly [string, string];
}

export const COLOURS = [
  ["loss", "loss"],
  ["entropy", "entropy"],
  ["rank", "rank"],
  ["prob", "probability"],
  ["trait", "a trait"],
  ["diff", "another run"],
  ["none", "nothing"],
] as const;
export type ColourName = (typeof COLOURS)[number][0];

/** Ends that are the same for every text, so that a colour means the same in all of them. */
const MOST_LOSS = 10;
const MOST_ENTROPY = 8;
const MOST_RANK = 4;

export function colourName(text: string | undefined): ColourName {
  return COLOURS.map(([name]) => name).find((name) => name === text) ?? "loss";
}

export function byColumn(name: "loss" | "entropy" | "rank" | "prob" | "none", rows: Rows): Colouring {
  switch (name) {
    case "loss":
      return { values: valuesOf(rows, "loss"), scale: upTo("loss", MOST_LOSS), label: "loss of the token, nats", ends: ["0", `≥ ${MOST_LOSS}`] };
    case "entropy":
      return {
        values: valuesOf(rows, "entropy"),
        scale: upTo("loss", MOST_ENTROPY),
        label: "entropy of its prediction, nats",
        ends: ["0", `≥ ${MOST_ENTROPY}`],
      };
    case "rank":
      return {
        values: valuesOf(rows, "true_rank").map(Math.log10),
        scale: upTo("loss", MOST_RANK),
        label: "rank of the token",
        transform: "logarithmic",
        ends: ["1", "≥ 10,000"],
      };
    case "prob":
      return { values: valuesOf(rows, "true_prob"), scale: upTo("mass", 1), label: "probability of the token" };
    case "none":
      return { values: new Float64Array(rows.length).fill(NaN), scale: upTo("mass", 1), label: "" };
  }
}

/** The loss here minus the loss in another run, for the same tokens; null where the tokens are others. */
export function byDifference(rows: Rows, other: Rows, vs: string): Colouring | null {
  if (rows.length !== other.length) return null;
  for (let pos = 0; pos < rows.length; pos += 1) if (rows.get(pos, "token_id") !== other.get(pos, "token_id")) return null;
  const theirs = valuesOf(other, "loss");
  const values = valuesOf(rows, "loss").map((loss, pos) => loss - (theirs[pos] ?? NaN));
  return { values, scale: around0(values), label: `loss here − loss in ${vs}, nats` };
}

/** The projection of each token on the vector of one trait in one layer. */
export function byTrait(traits: Rows, length: number, vector: Vector): Colouring {
  const values = new Float64Array(length).fill(NaN);
  for (let row = 0; row < traits.length; row += 1) {
    const pos = traits.number(row, "pos");
    if (pos !== null && pos < length && nameOf(vectorAt(traits, row)) === nameOf(vector)) values[pos] = traits.number(row, "projection") ?? NaN;
  }
  const most = mostOf(values);
  return {
    values,
    scale: { name: "difference", low: -most, high: most },
    label: `projection on ${nameOf(vector)}`,
    ends: [`≤ ${inShort(-most)}`, `≥ ${inShort(most)}`],
  };
}

/** The size that all but a twentieth of the values stay below: the first token of a text often lies far from all others. */
function mostOf(values: Float64Array): number {
  const sizes = values.filter((value) => !Number.isNaN(value)).map(Math.abs).sort();
  return sizes[Math.floor((sizes.length - 1) * 0.95)] || 1;
}

/** A trait's vector: of one method and component, in one layer. */
export interface Vector {
  trait: string;
  method: string;
  component: string;
  layer: number | null;
}

export function vectorAt(rows: Rows, row: number): Vector {
  return { trait: rows.text(row, "trait"), method: rows.text(row, "method"), component: rows.text(row, "component"), layer: rows.number(row, "layer") };
}

export function nameOf({ trait, method, component, layer }: Vector): string {
  return `${trait} · ${method} · ${component}${layer === null ? "" : ` · layer ${layer}`}`;
}

/** The vectors that rows are of, each once. */
export function vectorsOf(rows: Rows): Vector[] {
  const found = new Map<string, Vector>();
  for (let row = 0; row < rows.length; row += 1) {
    const vector = vectorAt(rows, row);
    found.set(nameOf(vector), vector);
  }
  return [...found.values()];
}

export function valuesOf(rows: Rows, name: string): Float64Array {
  return Float64Array.from({ length: rows.length }, (_, row) => rows.number(row, name) ?? NaN);
}
