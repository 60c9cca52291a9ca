/** An intervention that is looked at. */
export interface Intervention {
  /** The run that did it. */
  run: string;
  /** The task's run, which has the prompts. */
  source: string;
  intervention: number;
  spec: string;
  metric: string;
}
