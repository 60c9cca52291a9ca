// How edges of a circuit are drawn.

/** By port of a head; what leads into an MLP, the logits or a head's value is drawn through. */
export const DASHES: Record<string, string | undefined> = { q: "6 3", k: "2 3", v: undefined };

/** The step of the diverging palette for a sign. */
export function stepOfSign(score: number): number {
  return score < 0 ? 24 : 231;
}
