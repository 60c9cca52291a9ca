import { Problem } from "../../components/Empty";
import { useKey } from "../../keys/keys";
import { TextPicker } from "../../texts/TextPicker";
import { useFirstText } from "../../texts/useFirstText";
import { useModel } from "../../texts/useModel";
import { choosePos, chosenOf, sequenceOf, type Sequence } from "../../texts/where";
import { numberParam, type Place } from "../../url/codec";
import { usePlace } from "../../url/place";
import { GridPanel } from "./GridPanel";
import { HeadPanel } from "./HeadPanel";
import { LayerPanel } from "./LayerPanel";
import { ArcsPanel, ListsPanel } from "./LinksPanel";
import type { Head } from "./head";
import { useLinks } from "./useLinks";
import { useTokens, type Tokens } from "./useTokens";

/** Where the heads of a model look on one text: all of them in short, those of a layer small, one large, and one token's links. */
export function AttentionPage() {
  const place = usePlace();
  const of = sequenceOf(place);
  const { data, error } = useTokens(of);
  const missing = useFirstText(place) ?? error;
  const text = data?.rows.notes["text"];
  return (
    <>
      <TextPicker run={place.parts[0]} of={of} text={typeof text === "string" ? text : undefined} />
      {missing ? <Problem error={missing} /> : null}
      {of && data ? <Heads of={of} tokens={data} place={place} /> : null}
    </>
  );
}

function Heads({ of, tokens, place }: { of: Sequence; tokens: Tokens; place: Place }) {
  const model = useModel(of.run);
  const chosen = chosenOf(place);
  const last = tokens.rows.length - 1;
  const pos = Math.min(chosen.pos ?? last, last);
  const layer = Math.min(chosen.layer ?? 0, Math.max((model?.layers ?? 1) - 1, 0));
  const head: Head = { ...of, layer, head: Math.min(chosen.head ?? 0, Math.max((model?.heads(layer) ?? 1) - 1, 0)) };
  const beside = besideOf(place, head);
  useKey("ArrowRight", "the next token", () => choosePos(Math.min(pos + 1, last), "replace"));
  useKey("ArrowLeft", "the token before", () => choosePos(Math.max(pos - 1, 0), "replace"));
  const links = useLinks(head, pos);
  if (!model) return null;
  const { side } = tokens.rows.notes;
  return (
    <div className="columns">
      <div className="stack attention-side">
        <GridPanel of={head} side={typeof side === "string" ? side : of.side} />
        <LayerPanel of={head} />
      </div>
      <div className="stack grow">
        <div className="columns">
          <HeadPanel of={head} beside={beside} tokens={tokens} pos={pos} />
          {beside || !links.there ? null : <ListsPanel of={head} tokens={tokens} pos={pos} links={links} />}
        </div>
        {links.there ? <ArcsPanel of={head} tokens={tokens} pos={pos} links={links} /> : null}
      </div>
    </div>
  );
}

/** The head that is compared, as the address has it: l2, h2 and, of another run, run2. */
function besideOf(place: Place, of: Head): Head | null {
  const layer = numberParam(place, "l2");
  const head = numberParam(place, "h2");
  const run = place.params["run2"];
  if (layer === undefined && head === undefined && run === undefined) return null;
  return { ...of, run: run ?? of.run, layer: layer ?? of.layer, head: head ?? of.head };
}
