// Room for the names along the sides of a picture.

/** Longer names of columns stand aslant. */
export const SHORT_LABEL = 4;
const CHARACTER_PX = 6.3;

/** How much room the names of rows and columns take, in CSS pixels. */
export function gutters(rowLabels: readonly string[], colLabels: readonly string[]): { left: number; below: number } {
  const longest = Math.max(0, ...colLabels.map((label) => label.length));
  const left = 22 + Math.ceil(Math.max(1, ...rowLabels.map((label) => label.length)) * CHARACTER_PX);
  return { left, below: longest > SHORT_LABEL ? 30 + Math.ceil(longest * CHARACTER_PX * 0.77) : 34 };
}

/** Every how many-th name fits, where each takes `needed` of the `step` from one to the next. */
export function everyNth(step: number, needed: number): number {
  return Math.max(1, Math.ceil(needed / Math.max(step, 0.1)));
}
