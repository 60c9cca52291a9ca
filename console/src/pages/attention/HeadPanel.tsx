import { useMemo, useState } from "react";
import { useTile } from "../../api/useRows";
import type { Cell } from "../../components/Heatmap";
import { Legend } from "../../components/Legend";
import { Problem } from "../../components/Empty";
import { inShort } from "../../components/numbers";
import { NumberField } from "../../components/NumberField";
import { Panel } from "../../components/Panel";
import { useSize } from "../../components/useSize";
import { useKey } from "../../keys/keys";
import { SequenceSelect } from "../../texts/SequenceSelect";
import { useModel } from "../../texts/useModel";
import { numberParam } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { AttentionMap } from "./AttentionMap";
import { CellTip } from "./CellTip";
import { ComparedHead } from "./ComparedHead";
import { asked, titleOf, waysOf, type Head } from "./head";
import { differenceOf, pictureOf, type Picture } from "./picture";
import { sameTokens, useTokens, type Tokens } from "./useTokens";
import { boxed, formatPart, parsePart, zoomed, type Part } from "./zoom";

const LEFT = { one: 92, several: 58 };
const BELOW = 66;
const TITLE = 22;
const GAP = 14;

interface Props {
  of: Head;
  beside: Head | null;
  tokens: Tokens;
  pos: number;
}

/** A head as a picture; where another is compared, that one beside it and the difference of the two. */
export function HeadPanel({ of, beside, tokens, pos }: Props) {
  const place = usePlace();
  const model = useModel(of.run);
  const [box, size] = useSize<HTMLDivElement>();
  const [pointed, setPointed] = useState<Cell | null>(null);
  const others = useTokens(beside && beside.run !== of.run ? beside : null).data;
  const theirs = beside && beside.run !== of.run ? others : tokens;
  const comparable = theirs !== undefined && sameTokens(tokens.rows, theirs.rows);
  const views = beside ? (comparable ? 3 : 2) : 1;
  const count = tokens.rows.length;
  const part = parsePart(place.params["zoom"], count, count);
  const whole: Part = { row0: 0, row1: count, col0: 0, col1: count };
  const to = numberParam(place, "to");

  const left = views === 1 ? LEFT.one : LEFT.several;
  const side = Math.max(Math.floor(Math.min((size.width - GAP * (views + 1)) / views - left, size.height - BELOW - TITLE - 8)), 0);
  const detail = { ...(part ?? {}), size: Math.min(Math.max(Math.floor(side * devicePixelRatio), 1), 4096) };
  const first = useTile("attn", side > 0 ? { ...asked(of), ...detail } : null);
  const second = useTile("attn", side > 0 && beside ? { ...asked(beside), ...detail } : null);
  const a = useMemo(() => (first.data ? pictureOf(first.data) : null), [first.data]);
  const b = useMemo(() => (second.data ? pictureOf(second.data) : null), [second.data]);
  const difference = useMemo(() => (a && b && comparable ? differenceOf(a, b) : null), [a, b, comparable]);

  const heads = model?.heads(of.layer) ?? 1;
  const layers = model?.layers ?? 1;
  const chooseHead = (head: number) => update({ l: of.layer, h: Math.min(Math.max(head, 0), heads - 1) }, "replace");
  const chooseLayer = (layer: number) => update({ l: Math.min(Math.max(layer, 0), layers - 1), h: of.head }, "replace");
  useKey("[", "the head before", () => chooseHead(of.head - 1));
  useKey("]", "the next head", () => chooseHead(of.head + 1));
  useKey("ArrowUp", "a layer up", () => chooseLayer(of.layer + 1));
  useKey("ArrowDown", "a layer down", () => chooseLayer(of.layer - 1));
  useKey("0", "show the whole of the head", () => update({ zoom: undefined }, "replace"), part !== undefined);
  const show = (next: Part) => update({ zoom: formatPart(next, count, count) }, "replace");

  const draw = (picture: Picture, label: string, title: string, of_: readonly Head[], rowTokens: Tokens) => (
    <figure className="head-view" data-head={title} style={{ width: left + side }}>
      <figcaption>
        <b>{title}</b>
        <Legend
          scale={picture.scale}
          label={picture.scale.name === "difference" ? "difference" : "probability"}
          transform={picture.scale.name === "difference" ? undefined : "square root"}
          ends={picture.scale.name === "difference" ? undefined : ["0", inShort(picture.most)]}
        />
      </figcaption>
      <AttentionMap
        picture={picture}
        label={`${label}: each row looks at columns`}
        side={side}
        left={left}
        below={BELOW}
        rowTokens={rowTokens.tokens}
        colTokens={rowTokens.tokens}
        pos={pos}
        to={to}
        pointed={pointed}
        tell={(cell) => <CellTip picture={picture} cell={cell} heads={of_} rowTokens={rowTokens.tokens} colTokens={rowTokens.tokens} />}
        onPoint={setPointed}
        onChoose={(cell) => update({ pos: cell.row, to: cell.col })}
        onZoom={(spot, factor) => show(zoomed(part ?? whole, spot, factor, count, count))}
        onBox={(from, until) => show(boxed(part ?? whole, from, until))}
        onWhole={() => show(whole)}
      />
    </figure>
  );
  const pooled = a && (a.cell[0] > 1 || a.cell[1] > 1) ? `a cell is the largest of ${a.cell[0]} × ${a.cell[1]} tokens` : "";
  const partText = part ? `rows ${part.row0}–${part.row1 - 1}, columns ${part.col0}–${part.col1 - 1}` : "";

  return (
    <Panel
      title={`Layer ${of.layer}, head ${of.head}`}
      name="attention"
      main
      className="grow attention-main text-fills"
      note={[partText, pooled].filter(Boolean).join(" · ")}
      ways={waysOf(of)}
      controls={
        <>
          <SequenceSelect of={of} />
          {part ? (
            <button type="button" onClick={() => show(whole)}>
              whole
            </button>
          ) : null}
          <NumberField label="layer" value={of.layer} most={layers - 1} onChange={chooseLayer} />
          <NumberField label="head" value={of.head} most={heads - 1} onChange={chooseHead} />
          <button
            type="button"
            aria-pressed={beside !== null}
            onClick={() => update(beside ? { l2: undefined, h2: undefined, run2: undefined } : { l2: of.layer, h2: (of.head + 1) % heads })}
          >
            {beside ? "compared with" : "compare"}
          </button>
          {beside ? <ComparedHead of={of} beside={beside} /> : null}
        </>
      }
    >
      <div className="head-views" ref={box}>
        {first.error ? <Problem error={first.error} /> : a && side > 0 ? draw(a, `Attention of ${titleOf(of)}`, titleOf(of, beside ?? undefined), [of], tokens) : null}
        {beside && second.error ? <Problem error={second.error} /> : null}
        {beside && b && theirs ? draw(b, `Attention of ${titleOf(beside)}`, titleOf(beside, of), [beside], theirs) : null}
        {beside && difference ? draw(difference, `Difference of ${titleOf(of)} and ${titleOf(beside)}`, `${titleOf(of, beside)} − ${titleOf(beside, of)}`, [of, beside], tokens) : null}
      </div>
    </Panel>
  );
}
