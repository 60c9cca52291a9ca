import { useEffect, useRef } from "react";
import { inShort, visible } from "../../components/numbers";
import type { StripToken } from "../../components/Strip";
import { hideTip, showTip } from "../../components/tip";
import { lineOf, type Link } from "./links";

interface Props {
  tokens: readonly StripToken[];
  pos: number;
  /** What the token looks at: arcs above. */
  sources: readonly Link[];
  /** What looks at the token: arcs below. */
  targets: readonly Link[];
  onChoose: (pos: number) => void;
}

const CHARACTER_PX = 7.3;
const MOST_CHARACTERS = 14;
const APART = 10;
const ARC = 58;
const LINE = 22;
const THICKEST = 7;

/** The chosen token among those that it is linked with, on a line; the thicker the arc, the larger the square root of its value. */
export function ArcLine({ tokens, pos, sources, targets, onChoose }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const line = lineOf(pos, [...sources, ...targets].map((link) => link.pos), tokens.length);
  const texts = line.map((place) => ("gap" in place ? `⋯ ${place.gap}` : visible(tokens[place.pos]?.text ?? "")));
  const widths = texts.map((text) => Math.min(Array.from(text).length, MOST_CHARACTERS) * CHARACTER_PX + APART);
  const lefts = widths.map((_, place) => widths.slice(0, place).reduce((sum, width) => sum + width, 0));
  const width = widths.reduce((sum, each) => sum + each, 0) + 12;
  const middles = new Map(line.flatMap((place, at) => ("pos" in place ? [[place.pos, (lefts[at] ?? 0) + (widths[at] ?? 0) / 2] as const] : [])));
  const here = middles.get(pos) ?? 0;
  useEffect(() => {
    const element = frame.current;
    if (element) element.scrollLeft = here - element.clientWidth / 2;
  }, [here]);

  const arc = (link: Link, up: boolean) => {
    const there = middles.get(link.pos) ?? here;
    const base = up ? ARC : ARC + LINE;
    const high = Math.min(ARC - 4, 14 + Math.abs(there - here) * 0.22) * (up ? -1 : 1);
    const path =
      link.pos === pos
        ? `M ${here - 5} ${base} C ${here - 12} ${base + high} ${here + 12} ${base + high} ${here + 5} ${base}`
        : `M ${here} ${base} C ${here} ${base + high * 1.3} ${there} ${base + high * 1.3} ${there} ${base}`;
    const told = up ? `looks at ${visible(tokens[link.pos]?.text ?? "")} (${link.pos})` : `is looked at by ${visible(tokens[link.pos]?.text ?? "")} (${link.pos})`;
    return (
      <path
        key={`${up ? "from" : "to"} ${link.pos}`}
        d={path}
        className={up ? "source" : "target"}
        strokeWidth={0.75 + Math.sqrt(link.value) * THICKEST}
        onPointerMove={(event) => showTip(event, <p>{`${told}: ${inShort(link.value)}`}</p>)}
        onPointerLeave={hideTip}
        onClick={() => onChoose(link.pos)}
      />
    );
  };

  return (
    <>
      <div className="arcs" ref={frame} tabIndex={0} role="group" aria-label={`Token ${pos} and what it is linked with; the lists beside have the values`}>
        <div className="arc-line" style={{ width, height: 2 * ARC + LINE }}>
          <svg width={width} height={2 * ARC + LINE} aria-hidden="true">
            {sources.map((link) => arc(link, true))}
            {targets.map((link) => arc(link, false))}
          </svg>
          {line.map((place, at) => (
            <span
              key={"pos" in place ? place.pos : `gap ${at}`}
              className={"gap" in place ? "gap" : place.pos === pos ? "chosen-token" : "linked"}
              style={{ left: lefts[at], width: widths[at], top: ARC, height: LINE }}
              onClick={"pos" in place ? () => onChoose(place.pos) : undefined}
            >
              {texts[at]}
            </span>
          ))}
        </div>
      </div>
      <p className="muted arcs-told">above: what it looks at · below: what looks at it · thickness: square root of the probability · ⋯ tokens left out</p>
    </>
  );
}
