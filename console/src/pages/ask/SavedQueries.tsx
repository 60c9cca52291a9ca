import { useState } from "react";
import type { Rows } from "../../api/rows";
import type { SavedQuery } from "../../api/state";
import { Empty } from "../../components/Empty";
import { SavedForm } from "./SavedForm";

interface Props {
  queries: readonly SavedQuery[];
  runs: Rows | undefined;
  onAsk: (query: SavedQuery, values: Record<string, string>) => void;
}

/** The saved queries, to search; one that is opened has its variables as inputs. */
export function SavedQueries({ queries, runs, onAsk }: Props) {
  const [wanted, setWanted] = useState("");
  const [open, setOpen] = useState<string | null>(null);
  const words = wanted.toLowerCase().split(/\s+/);
  const found = queries.filter((query) => words.every((word) => `${query.name} ${query.title}`.toLowerCase().includes(word)));
  return (
    <>
      <div className="search">
        <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} placeholder={`Search ${queries.length} saved queries`} aria-label="Search saved queries" />
      </div>
      {found.length === 0 ? <Empty>None of the saved queries says that.</Empty> : null}
      <ul className="saved">
        {found.map((query) => (
          <li key={query.name} className={open === query.name ? "open" : undefined}>
            <button type="button" className="quiet" aria-expanded={open === query.name} onClick={() => setOpen(open === query.name ? null : query.name)}>
              {query.title}
            </button>
            {open === query.name ? <SavedForm query={query} runs={runs} onAsk={(values) => onAsk(query, values)} /> : null}
          </li>
        ))}
      </ul>
    </>
  );
}
