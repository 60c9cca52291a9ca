// What is told of how a head attends: the columns of the table heads, with their units.

export interface Metric {
  name: string;
  title: string;
  unit: string;
}

export const METRICS = [
  { name: "entropy", title: "entropy", unit: "nats" },
  { name: "max_prob", title: "largest probability", unit: "probability" },
  { name: "first_token_mass", title: "on the first token", unit: "probability" },
  { name: "previous_token_mass", title: "on the token before", unit: "probability" },
  { name: "self_mass", title: "on the token itself", unit: "probability" },
  { name: "induction_mass", title: "induction", unit: "probability" },
] as const satisfies readonly Metric[];

export function metricNamed(name: string | undefined): Metric {
  return METRICS.find((metric) => metric.name === name) ?? METRICS[0];
}
