import { useState } from "react";
import type { Rows } from "../../api/rows";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { usePlace, update } from "../../url/place";
import { between } from "../../selection/conditions";
import { Histogram, type Range } from "./Histogram";
import { statistics, type Statistics } from "./histogram";
import { TopValues } from "./TopValues";

interface Props {
  rows: Rows;
  name: string;
  onNarrow: (condition: string) => void;
}

/** How a column of the rows is distributed, and the sums of it; what is brushed narrows the question. */
export function ColumnPanel({ rows, name, onNarrow }: Props) {
  const place = usePlace();
  const [range, setRange] = useState<Range | null>(null);
  const kind = rows.kind(name);
  const logarithmic = place.params["log"] === "1";
  const total = rows.notes.total;
  const part = typeof total === "number" && total > rows.length ? `of the ${rows.length.toLocaleString("en-US")} rows shown` : `of ${rows.length.toLocaleString("en-US")} rows`;
  const numeric = kind === "number" || kind === "time";
  return (
    <Panel
      title={name}
      name="column"
      note={part}
      rows={() => rows}
      controls={
        <>
          {kind === "number" ? (
            <label>
              <input type="checkbox" checked={logarithmic} onChange={(event) => update({ log: event.target.checked ? "1" : undefined }, "replace")} /> log
            </label>
          ) : null}
          <button type="button" className="quiet" aria-label={`Close the column ${name}`} onClick={() => update({ col: undefined, log: undefined }, "replace")}>
            ✕
          </button>
        </>
      }
    >
      <div className="padded">
        {numeric ? <Histogram rows={rows} name={name} logarithmic={logarithmic && kind === "number"} onBrush={setRange} onNarrow={onNarrow} /> : null}
        {kind === "number" ? (
          <>
            <Sums all={statistics(rows, name)} part={range ? statistics(rows, name, range) : undefined} />
            <Between name={name} onNarrow={onNarrow} />
          </>
        ) : null}
        {kind === "text" || kind === "truth" ? <TopValues rows={rows} name={name} onNarrow={onNarrow} /> : null}
        {kind === "other" ? <p className="muted">Lists and structures have no histogram: unnest(…) or a field of them has.</p> : null}
      </div>
    </Panel>
  );
}

const SUMS = ["count", "mean", "min", "max", "sum"] as const;

function Sums({ all, part }: { all: Statistics; part: Statistics | undefined }) {
  return (
    <table className="sums">
      <thead>
        <tr>
          <td />
          <th scope="col">rows</th>
          <th scope="col">brushed</th>
        </tr>
      </thead>
      <tbody>
        {SUMS.map((name) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td data-sum={name}>{inShort(all[name], 5)}</td>
            <td data-brushed={name}>{part ? inShort(part[name], 5) : "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Two numbers that narrow the question, for those who do not drag. */
function Between({ name, onNarrow }: { name: string; onNarrow: (condition: string) => void }) {
  return (
    <form
      className="between"
      onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        const [low, high] = [form.get("low"), form.get("high")];
        if (typeof low === "string" && typeof high === "string") onNarrow(between(name, low, high, true));
      }}
    >
      <input type="number" step="any" name="low" required aria-label={`${name} from`} placeholder="from" />
      <input type="number" step="any" name="high" required aria-label={`${name} to`} placeholder="to" />
      <button type="submit">Narrow</button>
    </form>
  );
}
