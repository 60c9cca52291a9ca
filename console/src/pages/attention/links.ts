// The strongest of what a token looks at and of what looks at it, and the line of tokens that these stand on.

export interface Link {
  pos: number;
  value: number;
}

/** The strongest values that are at least `least`, the largest first, and how many there are of those in all. */
export function strongest(values: ArrayLike<number>, count: number, least: number): { links: Link[]; total: number } {
  const all = Array.from(values, (value, pos) => ({ pos, value })).filter(({ value }) => value > 0 && value >= least);
  all.sort((a, b) => b.value - a.value || a.pos - b.pos);
  return { links: all.slice(0, count), total: all.length };
}

/** What stands on a line: a token, or how many tokens were left out. */
export type Place = { pos: number } | { gap: number };

/** The tokens that are linked, those around the chosen one, and how many lie between them. A gap of one token is that token. */
export function lineOf(chosen: number, linked: readonly number[], length: number, around = 3): Place[] {
  const near = Array.from({ length: 2 * around + 1 }, (_, at) => chosen - around + at);
  const kept = [...new Set([...near, ...linked])].filter((pos) => pos >= 0 && pos < length).sort((a, b) => a - b);
  const line: Place[] = [];
  let next = 0;
  for (const pos of [...kept, length]) {
    if (pos - next === 1) line.push({ pos: next });
    else if (pos > next) line.push({ gap: pos - next });
    if (pos < length) line.push({ pos });
    next = pos + 1;
  }
  return line;
}
