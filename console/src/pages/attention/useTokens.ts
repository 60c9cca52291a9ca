import { useMemo } from "react";
import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import type { StripToken } from "../../components/Strip";
import { stripTokens } from "../../texts/tokens";
import type { Sequence } from "../../texts/where";
import type { ApiError } from "../../api/client";

export interface Tokens {
  rows: Rows;
  tokens: readonly StripToken[];
}

/** The tokens of a sequence; of none where null is given. */
export function useTokens(of: Sequence | null): { data: Tokens | undefined; error: ApiError | undefined } {
  const { data, error } = useRows("strip", of && { run: of.run, example: of.example, seq: of.seq, side: of.side });
  const tokens = useMemo(() => data && { rows: data, tokens: stripTokens(data) }, [data]);
  return { data: tokens, error };
}

/** Whether two sequences are of the same tokens. */
export function sameTokens(a: Rows, b: Rows): boolean {
  if (a.length !== b.length) return false;
  for (let pos = 0; pos < a.length; pos += 1) if (a.get(pos, "token_id") !== b.get(pos, "token_id")) return false;
  return true;
}
