import { useRef, useState, type ReactNode } from "react";
import { Button, Menu, MenuItem, MenuTrigger, Popover } from "react-aria-components";
import type { Rows } from "../api/rows";
import { useKey } from "../keys/keys";
import { saveCsv, savePng } from "./save";

/** The same view by other means, to copy. */
export interface Ways {
  sql?: string | undefined;
  python?: string | undefined;
  command?: string | undefined;
}

interface Props {
  title: ReactNode;
  /** The name of its files. */
  name: string;
  /** Beside the title: counts, "n of m shown", what is highlighted. */
  note?: ReactNode;
  /** Controls of the view. */
  controls?: ReactNode;
  ways?: Ways | undefined;
  /** Its rows, for CSV. */
  rows?: (() => Rows | undefined) | undefined;
  /** Whether `m` maximises it: for the main panel of a page. */
  main?: boolean;
  className?: string;
  children: ReactNode;
}

const WAYS = [
  ["sql", "Copy as SQL"],
  ["python", "Copy as Python"],
  ["command", "Copy as command"],
] as const;

/** A view in its frame: title, controls, a menu to copy and save it, and a button that gives it the whole page. */
export function Panel({ title, name, note, controls, ways = {}, rows, main = false, className = "", children }: Props) {
  const [maximised, setMaximised] = useState(false);
  const content = useRef<HTMLDivElement>(null);
  useKey("m", "maximise the main view", () => setMaximised(!maximised), main);
  useKey("Escape", "leave the maximised view", () => setMaximised(false), maximised);
  useKey("c", "copy the main view as Python", () => void copy(ways.python ?? ways.command ?? ways.sql), main);

  function act(action: React.Key): void {
    const text = ways[action as keyof Ways];
    if (text !== undefined) void copy(text);
    else if (action === "link") void copy(location.href);
    else if (action === "png" && content.current) void savePng(content.current, name);
    else if (action === "csv") {
      const found = rows?.();
      if (found) saveCsv(found, name);
    }
  }

  return (
    <section className={`panel ${maximised ? "maximised" : ""} ${className}`} aria-label={name}>
      <header>
        <h2>{title}</h2>
        {note ? <span className="note" title={typeof note === "string" ? note : undefined}>{note}</span> : null}
        <span className="controls">{controls}</span>
        <MenuTrigger>
          <Button className="quiet" aria-label={`Copy or save: ${name}`}>
            ⋯
          </Button>
          <Popover placement="bottom end">
            <Menu onAction={act} className="menu">
              {WAYS.filter(([way]) => ways[way] !== undefined).map(([way, label]) => (
                <MenuItem key={way} id={way}>
                  {label}
                </MenuItem>
              ))}
              <MenuItem id="link">Copy the address</MenuItem>
              <MenuItem id="png">Save as PNG</MenuItem>
              {rows ? <MenuItem id="csv">Save as CSV</MenuItem> : null}
            </Menu>
          </Popover>
        </MenuTrigger>
        <button
          type="button"
          className="quiet"
          aria-label={maximised ? `Restore: ${name}` : `Maximise: ${name}`}
          onClick={() => setMaximised(!maximised)}
        >
          {maximised ? "⤡" : "⤢"}
        </button>
      </header>
      <div className="content" ref={content}>
        {children}
      </div>
    </section>
  );
}

async function copy(text: string | undefined): Promise<void> {
  if (text !== undefined) await navigator.clipboard.writeText(text);
}
