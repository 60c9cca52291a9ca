import { useMemo } from "react";
import { Rows } from "../../api/rows";
import { useTile } from "../../api/useRows";
import { Choice } from "../../components/Choice";
import { visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { choosePos } from "../../texts/where";
import { update, usePlace } from "../../url/place";
import { ArcLine } from "./ArcLine";
import { asked, waysOf, type Head } from "./head";
import { LinkList } from "./LinkList";
import { strongest } from "./links";
import type { Tokens } from "./useTokens";

const SHOWN = 20;
const LEAST = ["0", "0.01", "0.05", "0.1"] as const;

/** What the chosen token looks at, and what looks at it: as arcs over the line of tokens, and as lists with exact values. */
export function LinksPanel({ of, tokens, pos, list }: { of: Head; tokens: Tokens; pos: number; list: boolean }) {
  const place = usePlace();
  const least = LEAST.find((text) => text === place.params["least"]) ?? "0.01";
  const from = useTile("attn/row", { ...asked(of), pos });
  const to = useTile("attn/row", { ...asked(of), pos, direction: "to" });
  const sources = useMemo(() => strongest(from.data?.values ?? [], SHOWN, Number(least)), [from.data, least]);
  const targets = useMemo(() => strongest(to.data?.values ?? [], SHOWN, Number(least)), [to.data, least]);
  const token = tokens.tokens[pos]?.text ?? "";
  if (from.error) return null; // the picture beside it says why
  const rows = () => {
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
  };
  return (
    <Panel
      title={
        <>
          Token to token: <code>{visible(token)}</code>
        </>
      }
      name="links"
      className="attention-links"
      note={`pos ${pos}, layer ${of.layer}, head ${of.head}`}
      rows={rows}
      ways={{ python: `${waysOf(of).python ?? ""}[${pos}]` }}
      controls={
        <label className="field">
          <span className="muted">at least</span>
          <Choice label="at least" of={LEAST.map((text) => [text, text] as const)} chosen={least} onChoose={(next) => update({ least: next === "0.01" ? undefined : next }, "replace")} />
        </label>
      }
    >
      <div className="links">
        <ArcLine tokens={tokens.tokens} pos={pos} sources={sources.links} targets={targets.links} onChoose={choosePos} />
        {list ? (
          <div className="link-lists">
            <LinkList title="looks at" found={sources} tokens={tokens.tokens} onChoose={choosePos} />
            <LinkList title="is looked at by" found={targets} tokens={tokens.tokens} onChoose={choosePos} />
          </div>
        ) : null}
      </div>
    </Panel>
  );
}
