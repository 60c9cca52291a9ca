import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useId, useRef, type KeyboardEvent, type ReactNode } from "react";
import type { Rows, Value } from "../api/rows";
import { asText, visible } from "./numbers";

interface Props {
  rows: Rows;
  label: string;
  /** Columns that are shown, in order; all where it is left out. */
  columns?: readonly string[];
  chosen?: number | undefined;
  /** What a click on a row does; rows are plain where it is left out. */
  onChoose?: ((row: number) => void) | undefined;
  /** What a click on a column's name does. */
  onColumn?: ((name: string) => void) | undefined;
  /** How a column's values are shown, where not as text. */
  render?: Partial<Record<string, (value: Value, row: number) => ReactNode>>;
  /** Rows in other words: which are shown, in which order. */
  order?: readonly number[] | undefined;
}

const ROW_PX = 24;
/** Between columns, and before the first and after the last, as the styles have it. */
const GAP_PX = 10;
/** A wider column is cut there; it takes what room the others leave. */
const WIDEST_CH = 60;
const TOKENS = new Set(["token", "true_token", "pred_token", "top_token"]);

/**
 * Rows as a table of which only the part on the screen is there: ten thousand scroll as ten do. The whole is one stop of the keyboard;
 * its arrow keys choose the row.
 */
export function DataTable({ rows, label, columns = rows.names, chosen, onChoose, onColumn, render = {}, order }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const count = order ? order.length : rows.length;
  // eslint-disable-next-line react-hooks/incompatible-library -- its functions are not handed on
  const virtual = useVirtualizer({ count, getScrollElement: () => frame.current, estimateSize: () => ROW_PX, overscan: 12 });
  const place = chosen === undefined ? -1 : order ? order.indexOf(chosen) : chosen;
  useEffect(() => {
    if (place >= 0) virtual.scrollToIndex(place, { align: "auto" });
  }, [place, virtual]);
  const characters = columns.map((name) => widthOf(rows, name));
  const layout = {
    gridTemplateColumns: characters.map((width) => (width > WIDEST_CH ? `minmax(${width}ch, 1fr)` : `${width}ch`)).join(" "),
    minWidth: `calc(${characters.reduce((sum, width) => sum + width, 0)}ch + ${columns.length * GAP_PX + GAP_PX}px)`,
  };
  const items = virtual.getVirtualItems();
  const id = useId();
  const move = (event: KeyboardEvent) => {
    const page = Math.max(Math.floor((frame.current?.clientHeight ?? 0) / ROW_PX) - 2, 1);
    const next = movedTo(event.key, place, count, page);
    if (!onChoose || next === undefined || event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    onChoose(order ? (order[next] ?? 0) : next);
  };

  return (
    <div
      className="table"
      ref={frame}
      role="grid"
      aria-label={label}
      aria-rowcount={count + 1}
      aria-colcount={columns.length}
      aria-activedescendant={items.some((item) => item.index === place) ? `${id}${place}` : undefined}
      tabIndex={0}
      onKeyDown={move}
    >
      <div className="table-head" role="row" style={layout} aria-rowindex={1}>
        {columns.map((name) => (
          <span role="columnheader" key={name} className={rows.kind(name) === "number" ? "number" : undefined}>
            {onColumn ? (
              <button type="button" className="quiet" onClick={() => onColumn(name)} title={`How ${name} is distributed`}>
                {name}
              </button>
            ) : (
              name
            )}
          </span>
        ))}
      </div>
      <div role="rowgroup" style={{ height: virtual.getTotalSize(), position: "relative" }}>
        {items.map((item) => {
          const row = order ? (order[item.index] ?? 0) : item.index;
          return (
            <div
              key={item.key}
              role="row"
              id={`${id}${item.index}`}
              aria-rowindex={item.index + 2}
              aria-selected={onChoose ? row === chosen : undefined}
              className={`table-row ${onChoose ? "clickable" : ""}`}
              data-row={row}
              style={{ ...layout, transform: `translateY(${item.start}px)` }}
              onClick={onChoose ? () => onChoose(row) : undefined}
            >
              {columns.map((name) => {
                const value = rows.get(row, name);
                const text = TOKENS.has(name) && typeof value === "string" ? visible(value) : asText(value);
                return (
                  <span role="gridcell" key={name} className={rows.kind(name) === "number" ? "number" : undefined} title={text.length > WIDEST_CH ? text : undefined}>
                    {render[name] ? render[name](value, row) : text}
                  </span>
                );
              })}
            </div>
          );
        })}
      </div>
    </div>
  );
}

/** The place that a key leads to from another; undefined where it leads nowhere. */
function movedTo(key: string, place: number, count: number, page: number): number | undefined {
  const by: Partial<Record<string, number>> = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -count, End: count };
  const step = by[key];
  return step === undefined || count === 0 ? undefined : Math.min(Math.max(place + step, 0), count - 1);
}

/** The width of a column in characters, by its name and its first values. */
function widthOf(rows: Rows, name: string): number {
  let most = name.length + 1;
  for (let row = 0; row < Math.min(rows.length, 100); row += 1) most = Math.max(most, asText(rows.get(row, name)).length);
  return Math.min(most, WIDEST_CH) + 1;
}
