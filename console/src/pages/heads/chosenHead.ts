import type { Metric } from "./metrics";

/** The head that is looked at, and what of it. */
export interface ChosenHead {
  run: string;
  layer: number;
  head: number;
  side: string;
  metric: Metric;
}
