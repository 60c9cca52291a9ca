import { memo, useEffect, useMemo, useRef, type ReactNode } from "react";
import { cssOf, inkOn, palette, stepOf, type Scale } from "../colour/palette";
import { scheme } from "../env/scheme";
import { useStore } from "../env/store";
import { messagesOf } from "./messages";
import { running } from "./running";
import { hideTip, showTip } from "./tip";

export interface StripToken {
  text: string;
  /** What it is beside a token of the text: `special`, `response`, `context`. */
  role: "" | "special" | "response" | "context";
  /** The message of a chat that it is of; null: of none. */
  turn?: number | null;
  /** Who says that message. */
  speaker?: string;
}

interface Props {
  tokens: readonly StripToken[];
  /** A value a token; NaN is a token without one, which stays uncoloured. */
  values: ArrayLike<number>;
  scale: Scale;
  /** What the strip is of, for those who do not see it. */
  label: string;
  chosen?: number | undefined;
  /** Tokens of the selection. */
  marked?: ReadonlySet<number> | undefined;
  /** The token that the pointer is over in another view. */
  pointed?: number | undefined;
  /** The token that the strip is shown for. */
  foremost?: number | undefined;
  tell?: (pos: number) => ReactNode;
  onChoose?: (pos: number) => void;
  onPoint?: (pos: number | null) => void;
}

/** The tokens of a text in running text, each on the colour of its value: one grid, in which one token at a time takes the focus. */
export function Strip({ tokens, values, scale, label, chosen, marked, pointed, foremost, tell, onChoose, onPoint }: Props) {
  const grid = useRef<HTMLDivElement>(null);
  const colours = palette(scale.name, useStore(scheme));
  const painted = useMemo(
    () =>
      tokens.map((_, pos) => {
        const value = values[pos] ?? NaN;
        if (Number.isNaN(value)) return ["", ""] as const;
        const step = stepOf(scale, value);
        return [cssOf(colours, step), inkOn(colours, step)] as const;
      }),
    [tokens, values, scale, colours],
  );

  const messages = useMemo(() => messagesOf(tokens), [tokens]);

  useEffect(() => {
    if (chosen === undefined) return;
    const token = grid.current?.querySelector<HTMLElement>(`[data-pos="${chosen}"]`);
    token?.scrollIntoView({ block: "nearest" });
    if (grid.current?.contains(document.activeElement)) token?.focus({ preventScroll: true });
  }, [chosen]);

  const focusable = chosen !== undefined && chosen < tokens.length ? chosen : 0;
  return (
    <div
      ref={grid}
      className="strip"
      role="grid"
      aria-label={label}
      aria-colcount={tokens.length}
      onClick={(event) => {
        const pos = posOf(event.target);
        if (pos !== null) onChoose?.(pos);
      }}
      onKeyDown={(event) => {
        const pos = posOf(event.target);
        if (pos === null || (event.key !== "Enter" && event.key !== " ")) return;
        event.preventDefault();
        onChoose?.(pos);
      }}
      onPointerMove={(event) => {
        const pos = posOf(event.target);
        onPoint?.(pos);
        if (pos === null || !tell) hideTip();
        else showTip(event, tell(pos));
      }}
      onPointerLeave={() => {
        onPoint?.(null);
        hideTip();
      }}
    >
      {messages.map(({ first, end, title }) => (
        <div role="row" key={first}>
          {title === null ? null : (
            <span role="rowheader" className="speaker">
              {title}
            </span>
          )}
          {tokens.slice(first, end).map((token, place) => {
            const pos = first + place;
            return (
              <Token
                key={pos}
                pos={pos}
                text={token.text}
                role={token.role}
                background={painted[pos]?.[0] ?? ""}
                ink={painted[pos]?.[1] ?? ""}
                state={`${pos === chosen ? "chosen" : ""} ${marked?.has(pos) ? "marked" : ""} ${pos === pointed ? "pointed" : ""} ${pos === foremost ? "foremost" : ""}`}
                focusable={pos === focusable}
              />
            );
          })}
        </div>
      ))}
    </div>
  );
}

interface TokenProps {
  pos: number;
  text: string;
  role: StripToken["role"];
  background: string;
  ink: string;
  state: string;
  focusable: boolean;
}

/** One token; drawn again only when something of it changes, so that a long text stays quick. */
const Token = memo(function Token({ pos, text, role, background, ink, state, focusable }: TokenProps) {
  return (
    <span
      role="gridcell"
      aria-colindex={pos + 1}
      aria-selected={state.includes("chosen")}
      tabIndex={focusable ? 0 : -1}
      data-pos={pos}
      className={`token ${role} ${state}`}
      style={background ? { background, color: ink } : undefined}
    >
      {running(text)}
    </span>
  );
});

function posOf(target: EventTarget): number | null {
  const pos = target instanceof HTMLElement ? target.dataset["pos"] : undefined;
  return pos === undefined ? null : Number(pos);
}
