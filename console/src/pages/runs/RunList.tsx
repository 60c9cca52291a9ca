import { useState } from "react";
import { getJson } from "../../api/client";
import { change } from "../../api/events";
import type { Rows } from "../../api/rows";
import { useAnswer, type Answer } from "../../api/useAnswer";
import { DataTable } from "../../components/DataTable";
import { Empty } from "../../components/Empty";
import { inBytes } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useStore } from "../../env/store";
import { commonOf } from "../../url/codec";
import { go, usePlace } from "../../url/place";
import { Leftovers, type Left } from "./Leftovers";

const ALL = ["run_id", "kind", "model", "dataset", "n_examples", "n_tokens", "perplexity", "bytes", "created_at"];
const FEW = ["run_id", "kind"];
const WAYS = {
  sql: "SELECT * FROM runs ORDER BY created_at DESC",
  python: 'wh.sql("FROM runs ORDER BY created_at DESC").df()',
  command: "traces runs",
};

/** All runs, the newest first: to search, by kind; what is damaged or unfinished; word of what comes and goes. */
export function RunList({ answer, run }: { answer: Answer<Rows>; run: string | undefined }) {
  const place = usePlace();
  const [wanted, setWanted] = useState("");
  const [kind, setKind] = useState("");
  const left = useAnswer("leftovers", (signal) => getJson<Left>("leftovers", {}, signal));
  const runs = answer.data;
  const rows = runs ? Array.from({ length: runs.length }, (_, row) => row) : [];
  const shown = runs ? rows.filter((row) => fits(runs, row, wanted, kind)) : [];
  const kinds = runs ? [...new Set(rows.map((row) => runs.text(row, "kind")))].sort() : [];
  const kept = commonOf(place);
  return (
    <Panel
      title="Runs"
      name="runs"
      className={run === undefined ? "grow" : "runs-list"}
      main={run === undefined}
      note={runs ? (shown.length < runs.length ? `${shown.length} of ${runs.length} shown` : `${runs.length}`) : null}
      rows={() => runs}
      ways={WAYS}
      controls={
        <>
          <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} placeholder="Search" aria-label="Search runs" />
          <select value={kind} onChange={(event) => setKind(event.target.value)} aria-label="Kind of runs">
            <option value="">all kinds</option>
            {kinds.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </>
      }
    >
      <div className="list-of-runs">
        <Word />
        {left.data ? <Leftovers left={left.data} /> : null}
        <div className="of-rows">
          <Show answer={answer}>
            {(found) =>
              found.length === 0 ? (
                <Empty command="traces capture next-token --model smollm2 --text my.txt --capture hidden,resid,qkv,heads --run first">
                  No runs yet. A capture makes one, and it appears here.
                </Empty>
              ) : shown.length === 0 ? (
                <Empty>None of the runs says that.</Empty>
              ) : (
                <DataTable
                  rows={found}
                  label="Runs"
                  columns={run === undefined ? ALL : FEW}
                  order={shown}
                  chosen={rows.find((row) => found.text(row, "run_id") === run)}
                  onChoose={(row) => go({ page: "runs", parts: [found.text(row, "run_id")], params: kept })}
                  render={{ bytes: (value) => (typeof value === "number" ? inBytes(value) : "") }}
                />
              )
            }
          </Show>
        </div>
      </div>
    </Panel>
  );
}

function fits(runs: Rows, row: number, wanted: string, kind: string): boolean {
  const text = ["run_id", "kind", "model", "dataset"].map((name) => runs.text(row, name)).join(" ").toLowerCase();
  return (kind === "" || runs.text(row, "kind") === kind) && wanted.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** Word of the runs that came or went last. */
function Word() {
  const { version, came, went } = useStore(change);
  const [read, setRead] = useState("");
  if (read === version || (came.length === 0 && went.length === 0)) return null;
  return (
    <p className="word" role="status">
      {[...came.map((name) => `Run ${name} came.`), ...went.map((name) => `Run ${name} went.`)].join(" ")}
      <button type="button" className="quiet" aria-label="Take the word away" onClick={() => setRead(version)}>
        ✕
      </button>
    </p>
  );
}
