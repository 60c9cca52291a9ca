import { useEffect, useRef, useState, type KeyboardEvent } from "react";
import type { Value } from "../api/rows";
import { useRows } from "../api/useRows";
import { Choice } from "../components/Choice";
import { inShort } from "../components/numbers";
import { Show } from "../components/Show";
import { usePlace, update } from "../url/place";
import { goToText } from "./where";

const PAGE = 200;
const ORDERS = [
  ["place", "place"],
  ["loss", "loss"],
  ["tokens", "tokens"],
] as const;
type Order = (typeof ORDERS)[number][0];

/** How far the list of a run was scrolled: it is there again when the next text has been chosen. */
const scrolled = new Map<string, number>();

/** The texts of a run: the beginning of each, its mean loss and length; searched, ordered, and a page of them at a time. */
export function ExampleList({ run, example }: { run: string; example: string | undefined }) {
  const place = usePlace();
  const order = ORDERS.map(([name]) => name).find((name) => name === place.params["order"]) ?? "place";
  const find = place.params["find"] ?? "";
  const [typed, setTyped] = useState(find);
  const after = Number(place.params["after"] ?? 0) || 0;
  const answer = useRows("examples", { run, order, after, limit: PAGE, find });
  const total = answer.data?.notes.total ?? 0;

  useEffect(() => {
    if (typed === find) return;
    const timer = setTimeout(() => update({ find: typed || undefined, after: undefined }, "replace"), 200);
    return () => clearTimeout(timer);
  }, [typed, find]);

  return (
    <div className="texts">
      <div className="texts-head">
        <input type="search" value={typed} onChange={(event) => setTyped(event.target.value)} placeholder="Search these texts" aria-label="Search these texts" />
        <Choice<Order> label="order" of={ORDERS} chosen={order} onChoose={(next) => update({ order: next === "place" ? undefined : next, after: undefined }, "replace")} />
      </div>
      <Show answer={answer}>
        {(rows) => (
          <List
            key={`${run} ${order} ${find} ${after}`}
            name={`${run} ${order} ${find} ${after}`}
            chosen={example}
            texts={Array.from({ length: rows.length }, (_, row) => ({
              id: rows.text(row, "example_id"),
              text: rows.text(row, "text"),
              loss: rows.number(row, "loss"),
              tokens: rows.number(row, "n_tokens"),
              right: rows.get(row, "is_correct"),
            }))}
            onChoose={(id) => goToText(run, id)}
          />
        )}
      </Show>
      <div className="texts-foot muted">
        {answer.data ? (
          <>
            <button type="button" className="quiet" disabled={after === 0} onClick={() => update({ after: after - PAGE || undefined }, "replace")} aria-label="Earlier texts">
              ‹
            </button>
            {total === 0 ? "no text" : `${(after + 1).toLocaleString("en-US")}–${(after + answer.data.length).toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`}
            <button type="button" className="quiet" disabled={after + PAGE >= total} onClick={() => update({ after: after + PAGE }, "replace")} aria-label="Later texts">
              ›
            </button>
          </>
        ) : null}
      </div>
    </div>
  );
}

interface Text {
  id: string;
  text: string;
  loss: number | null;
  tokens: number | null;
  /** Whether every score of an evaluation calls it right; null where there is none that says. */
  right: Value;
}

interface ListProps {
  name: string;
  texts: readonly Text[];
  chosen: string | undefined;
  onChoose: (id: string) => void;
}

/** A list box: arrow keys move, Enter chooses. */
function List({ name, texts, chosen, onChoose }: ListProps) {
  const box = useRef<HTMLDivElement>(null);
  const found = texts.findIndex((text) => text.id === chosen);
  const [at, setAt] = useState(Math.max(found, 0));
  useEffect(() => {
    const list = box.current;
    if (!list) return;
    list.scrollTop = scrolled.get(name) ?? 0;
    list.querySelector("[aria-selected='true']")?.scrollIntoView({ block: "nearest" });
  }, [name]);
  const move = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const text = texts[at];
    if (event.key === "Enter" && text) onChoose(text.id);
    else if (by !== undefined) {
      const next = Math.min(Math.max(at + by, 0), texts.length - 1);
      setAt(next);
      box.current?.children[next]?.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  if (texts.length === 0) return <p className="padded muted">No text has that in it.</p>;
  return (
    <div
      className="texts-list"
      role="listbox"
      aria-label="Texts"
      tabIndex={0}
      ref={box}
      aria-activedescendant={`text-${at}`}
      onKeyDown={move}
      onScroll={(event) => scrolled.set(name, event.currentTarget.scrollTop)}
    >
      {texts.map((text, row) => (
        <div
          key={text.id}
          id={`text-${row}`}
          role="option"
          aria-selected={text.id === chosen}
          data-example={text.id}
          className={row === at ? "at" : undefined}
          onClick={() => onChoose(text.id)}
          title={`${text.id}: ${text.tokens ?? 0} tokens${text.loss === null ? "" : `, mean loss ${inShort(text.loss)} nats`}`}
        >
          {text.right === null ? null : (
            <span className={text.right ? "mark" : "mark bad"} aria-label={text.right ? "right" : "wrong"}>
              {text.right ? "✓" : "✗"}
            </span>
          )}
          <span className="text">{text.text.trim()}</span>
          <span className="number muted">{text.loss === null ? inShort(text.tokens) : text.loss.toFixed(2)}</span>
        </div>
      ))}
    </div>
  );
}
