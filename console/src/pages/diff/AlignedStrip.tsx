import { memo, useEffect, useRef, type ReactNode } from "react";
import type { Rows } from "../../api/rows";
import { cssOf, inkOn, palette, stepOf, type Scale } from "../../colour/palette";
import { running } from "../../components/running";
import { visible } from "../../components/numbers";
import { hideTip, showTip } from "../../components/tip";
import { scheme } from "../../env/scheme";
import { useStore } from "../../env/store";

interface Props {
  rows: Rows;
  values: Float64Array;
  scale: Scale;
  label: string;
  chosen: number | undefined;
  marked: ReadonlySet<number>;
  tell: (segment: number) => ReactNode;
  onChoose: (segment: number) => void;
}

/** A text in spans that two tokenizers share, the tokens of both under each span: one grid with one place for the focus. */
export function AlignedStrip({ rows, values, scale, label, chosen, marked, tell, onChoose }: Props) {
  const grid = useRef<HTMLDivElement>(null);
  const colours = palette(scale.name, useStore(scheme));
  useEffect(() => {
    const cell = chosen === undefined ? null : grid.current?.querySelector<HTMLElement>(`[data-segment="${chosen}"]`);
    cell?.scrollIntoView({ block: "nearest" });
    if (grid.current?.contains(document.activeElement)) cell?.focus({ preventScroll: true });
  }, [chosen]);
  return (
    <div
      ref={grid}
      className="aligned mono"
      role="grid"
      aria-label={label}
      onClick={(event) => {
        const segment = segmentOf(event.target);
        if (segment !== null) onChoose(segment);
      }}
      onKeyDown={(event) => {
        const segment = segmentOf(event.target);
        if (segment === null || (event.key !== "Enter" && event.key !== " ")) return;
        event.preventDefault();
        onChoose(segment);
      }}
      onPointerMove={(event) => {
        const segment = segmentOf(event.target);
        if (segment === null) hideTip();
        else showTip(event, tell(segment));
      }}
      onPointerLeave={hideTip}
    >
      <div role="row">
        {Array.from({ length: rows.length }, (_, segment) => {
          const value = values[segment] ?? NaN;
          const step = stepOf(scale, value);
          return (
            <Segment
              key={segment}
              segment={segment}
              text={rows.text(segment, "text")}
              a={rows.get(segment, "a_tokens") as ArrayLike<string>}
              b={rows.get(segment, "b_tokens") as ArrayLike<string>}
              background={Number.isNaN(value) ? "" : cssOf(colours, step)}
              ink={Number.isNaN(value) ? "" : inkOn(colours, step)}
              focusable={segment === (chosen ?? 0)}
              chosen={segment === chosen}
              marked={marked.has(segment)}
            />
          );
        })}
      </div>
    </div>
  );
}

interface SegmentProps {
  segment: number;
  text: string;
  a: ArrayLike<string>;
  b: ArrayLike<string>;
  background: string;
  ink: string;
  focusable: boolean;
  chosen: boolean;
  marked: boolean;
}

/** One span; drawn again only when something of it changes, so that a long text stays quick. */
const Segment = memo(function Segment({ segment, text, a, b, background, ink, focusable, chosen, marked }: SegmentProps) {
  return (
    <span
      role="gridcell"
      data-segment={segment}
      tabIndex={focusable ? 0 : -1}
      aria-selected={chosen}
      className={`segment ${chosen ? "chosen" : ""} ${marked ? "marked" : ""}`}
    >
      <span className="segment-text" style={background ? { background, color: ink } : undefined}>
        {running(text)}
      </span>
      <Pieces tokens={a} />
      <Pieces tokens={b} />
    </span>
  );
});

/** How one run cut a span. */
function Pieces({ tokens }: { tokens: ArrayLike<string> }) {
  return (
    <span className="pieces">
      {Array.from(tokens, (token, at) => (
        <i key={at}>{visible(token)}</i>
      ))}
    </span>
  );
}

function segmentOf(target: EventTarget): number | null {
  const cell = target instanceof HTMLElement ? target.closest<HTMLElement>("[data-segment]") : null;
  return cell ? Number(cell.dataset["segment"]) : null;
}
