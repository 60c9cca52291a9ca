import { useState } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Circuit } from "./chosenCircuit";

interface Props {
  circuit: Circuit;
  /** An evaluated size; the smallest that is faithful where it is left out. */
  size: number | undefined;
  evaluated: boolean;
}

/** Whether the circuit holds, on which tasks, templates and corruptions, and why not. */
export function HoldsPanel({ circuit, size, evaluated }: Props) {
  const [parts, setParts] = useState(false);
  const answer = useRows("circuit/holds", evaluated ? { run: circuit.run, size } : null);
  if (!evaluated) return null;
  const rows = answer.data;
  const shown = rows ? rowsOf(rows, circuit, parts) : [];
  const all = rows ? rowsOf(rows, circuit, true).length : 0;
  return (
    <Panel
      title="Does it hold?"
      name="holds"
      className="circuit-holds"
      note={rows ? `${shown.length} of ${all} shown` : null}
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.at(-1),
        python: `wh.ask("circuit_holds", run="${circuit.run}"${size === undefined ? "" : `, size="${size}"`}).df()`,
        command: `traces ask circuit_holds --run ${circuit.run}${size === undefined ? "" : ` --size ${size}`}`,
      }}
      controls={
        all > shown.length || parts ? (
          <label className="field">
            <input type="checkbox" checked={parts} onChange={(event) => setParts(event.target.checked)} /> by template and corruption
          </label>
        ) : null
      }
    >
      <Show answer={answer}>
        {(found) => (
          <ul className="holds">
            {rowsOf(found, circuit, parts).map((row) => (
              <li key={row}>
                <Verdict holds={found.get(row, "holds")} />
                <span>
                  <b>{found.text(row, "task_run")}</b>
                  {found.text(row, "part") === "all" ? "" : `, ${found.text(row, "part")}`} <span className="muted">{`${found.text(row, "selection")}, ${found.text(row, "ablation")}, size ${inShort(found.number(row, "size"))}`}</span>
                  <br />
                  {found.text(row, "reasons")}
                </span>
              </li>
            ))}
          </ul>
        )}
      </Show>
    </Panel>
  );
}

function Verdict({ holds }: { holds: unknown }) {
  if (holds === true) return <b className="verdict good">holds</b>;
  return holds === false ? <b className="verdict bad">fails</b> : <b className="verdict muted">open</b>;
}

/** The circuit's own task first, then those of which something can be said. */
function rowsOf(rows: Rows, circuit: Circuit, parts: boolean): number[] {
  const rank = (row: number) => 2 * Number(rows.text(row, "task_run") === circuit.source) + Number(rows.get(row, "holds") !== null);
  return Array.from({ length: rows.length }, (_, row) => row)
    .filter((row) => rows.text(row, "circuit") === circuit.name && (parts || rows.text(row, "part") === "all"))
    .sort((a, b) => rank(b) - rank(a));
}
