import { useMemo } from "react";
import { Rows } from "../../api/rows";
import { useTile } from "../../api/useRows";
import { usePlace } from "../../url/place";
import { asked, type Head } from "./head";
import { strongest, type Link } from "./links";
import type { Tokens } from "./useTokens";

const SHOWN = 20;
export const LEAST = ["0", "0.01", "0.05", "0.1"] as const;

export interface Found {
  links: readonly Link[];
  total: number;
}

export interface Links {
  /** What the token looks at. */
  sources: Found;
  /** What looks at the token. */
  targets: Found;
  /** The smallest probability that counts, as the address has it. */
  least: (typeof LEAST)[number];
  /** Whether the head has attention at all. */
  there: boolean;
}

/** The strongest links of a token in a head, exactly. */
export function useLinks(of: Head, pos: number): Links {
  const place = usePlace();
  const least = LEAST.find((text) => text === place.params["least"]) ?? "0.01";
  const from = useTile("attn/row", { ...asked(of), pos });
  const to = useTile("attn/row", { ...asked(of), pos, direction: "to" });
  const sources = useMemo(() => strongest(from.data?.values ?? [], SHOWN, Number(least)), [from.data, least]);
  const targets = useMemo(() => strongest(to.data?.values ?? [], SHOWN, Number(least)), [to.data, least]);
  return { sources, targets, least, there: from.error === undefined };
}

/** The links as rows with their keys, for a file. */
export function linkRows(of: Head, pos: number, { sources, targets }: Links, tokens: Tokens): Rows {
  const all = [...sources.links.map((link) => ({ ...link, looks: "from" })), ...targets.links.map((link) => ({ ...link, looks: "to" }))];
  return new Rows([
    ["run_id", all.map(() => of.run), "text"],
    ["example_id", all.map(() => of.example), "text"],
    ["seq", all.map(() => of.seq), "number"],
    ["layer", all.map(() => of.layer), "number"],
    ["head", all.map(() => of.head), "number"],
    ["chosen_pos", all.map(() => pos), "number"],
    ["direction", all.map(({ looks }) => looks), "text"],
    ["pos", all.map((link) => link.pos), "number"],
    ["token", all.map((link) => tokens.tokens[link.pos]?.text ?? ""), "text"],
    ["probability", all.map((link) => link.value), "number"],
  ]);
}
