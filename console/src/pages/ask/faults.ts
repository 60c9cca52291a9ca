// Where in a text the server found fault.

export interface Fault {
  error: string;
  /** From 1 on; undefined where the fault is in the whole. */
  line?: number | undefined;
  column?: number | undefined;
}

/** The word that a fault begins at, as offsets into the text; the last word where there is nothing, the whole where no place is told. */
export function placeOfError(text: string, { line, column }: Partial<Fault>): { from: number; to: number } {
  if (typeof line !== "number") return { from: 0, to: text.length };
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  const at = Math.min(before + Math.max((column ?? 1) - 1, 0), text.length);
  const word = /^(?:"[^"]*"|[\w.]+|\S)/.exec(text.slice(at));
  if (word) return { from: at, to: at + word[0].length };
  const end = text.trimEnd().length;
  return { from: Math.max(end - (/\S+$/.exec(text.slice(0, end))?.[0].length ?? 0), 0), to: end };
}
