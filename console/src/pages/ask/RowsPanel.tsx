import { useEffect, useState } from "react";
import type { Rows } from "../../api/rows";
import { DataTable } from "../../components/DataTable";
import { Empty, Problem } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { stop, type Asked } from "../../selection/asked";
import { partsOfText } from "../../selection/places";
import { keyOf, keysOf } from "../../selection/selection";
import { Cards, MOST_CARDS } from "./Cards";

interface Props {
  asked: Asked | null;
  chosen: number | undefined;
  onChoose: (row: number) => void;
  onColumn: (name: string) => void;
  /** The words of the empty page. */
  children: React.ReactNode;
}

const ALL_KEYS = ["run_id", "example_id", "pos"] as const;

/** The rows of the question: how many, in what time, and what they lead to. */
export function RowsPanel({ asked, chosen, onChoose, onColumn, children }: Props) {
  const rows = asked?.rows;
  const sql = asked?.sql ?? "";
  return (
    <Panel
      title="Rows"
      name="rows"
      className="grow"
      main
      note={<Note asked={asked} />}
      controls={asked?.since === undefined ? null : <Running since={asked.since} />}
      rows={() => rows}
      ways={asked && rows ? { sql, python: `wh.sql("""\n${sql}\n""").df()`, command: `traces sql ${shellQuoted(sql)}` } : {}}
    >
      {asked?.error ? (
        <Problem error={asked.error} />
      ) : rows ? (
        <div className={`rows ${asked.since === undefined ? "" : "stale"}`}>
          <Found rows={rows} chosen={chosen} onChoose={onChoose} onColumn={onColumn} />
        </div>
      ) : asked ? null : (
        children
      )}
    </Panel>
  );
}

function Found({ rows, chosen, onChoose, onColumn }: { rows: Rows } & Pick<Props, "chosen" | "onChoose" | "onColumn">) {
  if (rows.length === 0) return <Empty>No rows.</Empty>;
  const cards = rows.length <= MOST_CARDS && partsOfText(keyOf(rows, 0)) !== undefined && rows.has("pos");
  return (
    <>
      <div className="of-rows" style={cards ? { flex: "none", height: (rows.length + 1) * 24 + 16 } : undefined}>
        <DataTable rows={rows} label="Rows" chosen={chosen} onChoose={onChoose} onColumn={onColumn} />
      </div>
      {cards ? <Cards rows={rows} chosen={chosen} onChoose={onChoose} /> : null}
    </>
  );
}

function Note({ asked }: { asked: Asked | null }) {
  const rows = asked?.rows;
  if (!asked || !rows || asked.error) return null;
  const cut = rows.notes["cut"];
  const count = `${rows.length.toLocaleString("en-US")} ${rows.length === 1 ? "row" : "rows"}`;
  const ms = asked.ms === undefined ? "" : ` in ${asked.ms < 1000 ? `${asked.ms.toFixed(0)} ms` : `${(asked.ms / 1000).toFixed(1)} s`}`;
  return (
    <>
      {typeof cut === "string" ? <strong>{cut} Narrow the question, or ask for a summary.</strong> : `${count}${ms}`}
      {rows.length > 0 ? <span className="leads"> {leadingTo(rows)}</span> : null}
    </>
  );
}

/** What the rows select, or which columns would make them. */
function leadingTo(rows: Rows): string {
  const keys = keysOf(rows);
  const missing = ALL_KEYS.filter((name) => !keys.includes(name));
  const leads = keys.includes("run_id") && keys.some((name) => name !== "run_id");
  if (leads) return "";
  if (keys.length === 0) return "· plain rows: with run_id, example_id and pos among their columns they would lead to their tokens";
  return `· they select by ${keys.join(", ")}; with ${missing.join(" and ")} they would lead to tokens`;
}

function Running({ since }: { since: number }) {
  const [now, setNow] = useState(since);
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), 100);
    return () => clearInterval(timer);
  }, []);
  const seconds = (now - since) / 1000;
  return (
    <span role="status" className="running">
      {seconds >= 0.3 ? <span className="number">{seconds.toFixed(1)} s</span> : null}
      <button type="button" onClick={stop}>
        Stop
      </button>
    </span>
  );
}

function shellQuoted(text: string): string {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

