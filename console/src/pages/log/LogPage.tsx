import { useState } from "react";
import { clearLog, log, type LogEntry } from "../../api/log";
import { Rows } from "../../api/rows";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { useStore } from "../../env/store";
import { Entry } from "./Entry";

/** Questions that the editor asks while one writes. */
const CHECKS = "/api/sql/check";

/** The page's own requests: when, how long, how many rows, what came of it, and the SQL behind them, to copy or to ask. */
export function LogPage() {
  const entries = useStore(log);
  const [wanted, setWanted] = useState("");
  const [checks, setChecks] = useState(false);
  const shown = entries.filter((entry) => (checks || entry.path !== CHECKS) && textOf(entry).includes(wanted.toLowerCase()));
  const total = shown.reduce((sum, entry) => sum + entry.ms, 0);
  return (
    <Panel
      title="What this page asked"
      name="log"
      note={`${shown.length < entries.length ? `${shown.length} of ${entries.length} shown` : String(entries.length)}${shown.length > 0 ? `, ${(total / shown.length).toFixed(0)} ms on average` : ""}`}
      main
      rows={() => asRows(shown)}
      controls={
        <>
          <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} placeholder="Search" aria-label="Search the log" />
          <label>
            <input type="checkbox" checked={checks} onChange={(event) => setChecks(event.target.checked)} /> checks of the editor
          </label>
          <button type="button" onClick={clearLog}>
            Clear
          </button>
        </>
      }
    >
      {entries.length === 0 ? <Empty>Nothing yet.</Empty> : shown.length === 0 ? <Empty>None of the requests says that.</Empty> : null}
      <ol className="log">
        {shown.map((entry) => (
          <Entry key={entry.id} entry={entry} />
        ))}
      </ol>
    </Panel>
  );
}

function textOf(entry: LogEntry): string {
  return [entry.method, entry.path, entry.outcome, ...(entry.sql ?? [])].join(" ").toLowerCase();
}

function asRows(entries: readonly LogEntry[]): Rows {
  return new Rows([
    ["when", entries.map((entry) => new Date(entry.began)), "time"],
    ["ms", entries.map((entry) => entry.ms), "number"],
    ["request", entries.map((entry) => `${entry.method} ${entry.path}`), "text"],
    ["rows", entries.map((entry) => entry.rows ?? null), "number"],
    ["outcome", entries.map((entry) => entry.outcome), "text"],
    ["sql", entries.map((entry) => (entry.sql ?? []).join(";\n")), "text"],
  ]);
}
