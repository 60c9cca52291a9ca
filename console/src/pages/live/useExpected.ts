// What a model expects after a token: as the run has it, and after the last token, which nothing follows, as its lens has it in the last layer.

import type { Rows } from "../../api/rows";
import { useJson, useRows } from "../../api/useRows";
import { guesses, guessesOf, type Guess } from "../../texts/tokens";

export function useExpected(run: string, example: string, rows: Rows, pos: number): Guess[] {
  const known = guessesOf(rows, pos, "next_");
  const manifest = useJson<{ children: { kind: string }[] }>("manifest", known.length > 0 ? null : { run });
  const hasLens = manifest.data?.children.some((child) => child.kind === "lens") ?? false;
  const lens = useRows("lens", hasLens ? { run, example, seq: 0 } : null);
  return known.length > 0 || !lens.data ? known : lastLayer(lens.data, pos);
}

function lastLayer(lens: Rows, pos: number): Guess[] {
  let found = -1;
  for (let row = 0; row < lens.length; row += 1) {
    if (lens.number(row, "pos") === pos && (lens.number(row, "layer") ?? -1) >= (found < 0 ? -1 : (lens.number(found, "layer") ?? -1))) found = row;
  }
  return found < 0 ? [] : guesses(lens.get(found, "topk_tokens"), lens.get(found, "topk_probs"));
}
