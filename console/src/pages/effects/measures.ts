// How much a source token influences a prediction, by each measure.

export interface Measure {
  name: string;
  title: string;
  column: string;
  /** Whether it can be below 0. */
  signed: boolean;
  label: string;
}

const MEASURES: readonly Measure[] = [
  { name: "logit", title: "logit", column: "logit", signed: true, label: "adds to the logit difference (logits)" },
  { name: "ifr", title: "information flow", column: "ifr", signed: false, label: "share of information flow" },
  { name: "value-norm", title: "value norm", column: "value_norm", signed: false, label: "share by value norm" },
  { name: "occlusion", title: "occlusion", column: "occlusion", signed: true, label: "logit difference less that without it (logits)" },
];

export function measureNamed(name: string | undefined, taken: readonly string[]): Measure {
  const known = MEASURES.filter((measure) => taken.includes(measure.name));
  return known.find((measure) => measure.name === name) ?? known[0] ?? (MEASURES[0] as Measure);
}

export function taken(names: readonly string[]): Measure[] {
  return MEASURES.filter((measure) => names.includes(measure.name));
}
