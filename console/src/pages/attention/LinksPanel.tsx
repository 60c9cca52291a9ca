import { Choice } from "../../components/Choice";
import { visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { choosePos } from "../../texts/where";
import { update } from "../../url/place";
import { ArcLine } from "./ArcLine";
import { waysOf, type Head } from "./head";
import { LinkList } from "./LinkList";
import { LEAST, linkRows, type Links } from "./useLinks";
import type { Tokens } from "./useTokens";

interface Props {
  of: Head;
  tokens: Tokens;
  pos: number;
  links: Links;
}

/** What the chosen token looks at, and what looks at it, as arcs over the line of tokens. */
export function ArcsPanel({ of, tokens, pos, links }: Props) {
  return (
    <Panel
      title={
        <>
          Token to token: <code>{visible(tokens.tokens[pos]?.text ?? "")}</code>
        </>
      }
      name="links"
      className="attention-links"
      note={`pos ${pos}, layer ${of.layer}, head ${of.head}`}
      rows={() => linkRows(of, pos, links, tokens)}
      ways={{ python: `${waysOf(of).python ?? ""}[${pos}]` }}
      controls={
        <label className="field">
          <span className="muted">at least</span>
          <Choice
            label="the smallest probability"
            of={LEAST.map((text) => [text, text] as const)}
            chosen={links.least}
            onChoose={(next) => update({ least: next === "0.01" ? undefined : next }, "replace")}
          />
        </label>
      }
    >
      <ArcLine tokens={tokens.tokens} pos={pos} sources={links.sources.links} targets={links.targets.links} onChoose={choosePos} />
    </Panel>
  );
}

/** The same as lists with exact values. */
export function ListsPanel({ of, tokens, pos, links }: Props) {
  return (
    <Panel
      title={
        <>
          Token <code>{visible(tokens.tokens[pos]?.text ?? "")}</code>
        </>
      }
      name="values"
      className="attention-lists"
      note={`pos ${pos}`}
      rows={() => linkRows(of, pos, links, tokens)}
      ways={{ python: `${waysOf(of).python ?? ""}[${pos}]` }}
    >
      <div className="link-lists">
        <LinkList title="looks at" found={links.sources} tokens={tokens.tokens} onChoose={choosePos} />
        <LinkList title="is looked at by" found={links.targets} tokens={tokens.tokens} onChoose={choosePos} />
      </div>
    </Panel>
  );
}
