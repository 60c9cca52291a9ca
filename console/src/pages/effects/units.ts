// What effects are measured in.

const UNITS: Record<string, string> = { logit_diff: "logits", prob_diff: "probability", logprob: "nats", kl: "nats" };

export function unitOf(metric: string): string {
  return UNITS[metric] ?? "";
}

/** The column that is shown, and what it is called. */
export function quantity(normalised: boolean, metric: string): { column: string; label: string } {
  return normalised
    ? { column: "effect_normalised", label: `effect on ${metric} by clean − corrupted (−1 destroys, 1 restores)` }
    : { column: "effect", label: `effect on ${metric} (${unitOf(metric)})` };
}
