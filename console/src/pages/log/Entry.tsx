import type { LogEntry } from "../../api/log";
import { Command } from "../../components/Command";
import { formatPlace } from "../../url/codec";

/** Milliseconds from which on a request is marked as slow. */
const SLOW_MS = 300;

/** One request, with its statements. */
export function Entry({ entry }: { entry: LogEntry }) {
  const when = new Date(entry.began);
  const good = entry.outcome === "ok";
  return (
    <li>
      <time className="muted" dateTime={when.toISOString()}>
        {when.toTimeString().slice(0, 8)}
      </time>
      <span className={`number ${entry.ms >= SLOW_MS ? "slow" : ""}`}>{entry.ms.toFixed(0)} ms</span>
      <span className="number rows-of">{entry.rows === undefined ? "" : `${entry.rows.toLocaleString("en-US")} rows`}</span>
      <code>
        {entry.method} {readable(entry.path)}
      </code>
      {good ? null : <span className="bad">{entry.outcome}</span>}
      {entry.sql?.map((sql, place) => (
        <div key={place} className="statement">
          <Command text={sql} />
          <a href={formatPlace({ page: "ask", parts: [], params: { q: sql } })}>ask this</a>
        </div>
      ))}
    </li>
  );
}

function readable(path: string): string {
  try {
    return decodeURIComponent(path.replace(/\+/g, " "));
  } catch {
    return path;
  }
}
