import type { Rows } from "../../api/rows";
import { visible } from "../../components/numbers";
import { equals } from "../../selection/conditions";
import { frequencies } from "./histogram";

const SHOWN = 20;

/** The most frequent values of a column; a click on one narrows the question to it. */
export function TopValues({ rows, name, onNarrow }: { rows: Rows; name: string; onNarrow: (condition: string) => void }) {
  const { top, others, distinct } = frequencies(rows.column(name), SHOWN);
  const highest = top[0]?.count ?? 1;
  return (
    <>
      <ol className="top-values" aria-label={`The most frequent values of ${name}`}>
        {top.map(({ value, text, count }) => (
          <li key={text}>
            <button type="button" className="quiet" onClick={() => onNarrow(equals(name, value))} title={`Narrow to ${visible(text)}`}>
              <span className="filled" style={{ width: `${(count / highest) * 100}%` }} />
              <span className="value">{visible(text)}</span>
              <span className="number">{count.toLocaleString("en-US")}</span>
            </button>
          </li>
        ))}
      </ol>
      {others > 0 ? (
        <p className="muted">
          {top.length} of {distinct.toLocaleString("en-US")} values shown, the most frequent first; {others.toLocaleString("en-US")} rows have others.
        </p>
      ) : null}
    </>
  );
}
