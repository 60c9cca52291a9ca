import { log } from "../../api/log";
import { Command } from "../../components/Command";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { useStore } from "../../env/store";

/** The page's own queries, with how long each took, each to copy. */
export function LogPage() {
  const entries = useStore(log);
  return (
    <Panel title="What this page asked" name="log" note={`the last ${entries.length}`} main>
      {entries.length === 0 ? <Empty>Nothing yet.</Empty> : null}
      <ol className="log">
        {entries.map((entry) => (
          <li key={entry.id}>
            <span className="number">{entry.ms.toFixed(0)} ms</span>
            <code>
              {entry.method} {decodeURIComponent(entry.path)}
            </code>
            <span className={entry.outcome === "ok" ? "muted" : "bad"}>
              {entry.outcome === "ok" ? (entry.rows === undefined ? "" : `${entry.rows} rows`) : entry.outcome}
            </span>
            {entry.sql?.map((text) => <Command key={text} text={text} />)}
          </li>
        ))}
      </ol>
    </Panel>
  );
}
