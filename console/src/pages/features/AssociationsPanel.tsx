import type { ReactNode } from "react";
import type { Value } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { inShort, percent } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Encoded } from "./encoded";

const number = (value: Value) => (typeof value === "number" ? inShort(value) : "");
const part = (value: Value) => (typeof value === "number" ? percent(value) : "");
const RENDER = { share: part, elsewhere: part, z: number, q_value: number };

/** The values of properties at whose tokens a feature is active more or less often than elsewhere, the surest first. */
export function AssociationsPanel({ of, feature, tabs }: { of: Encoded; feature: number | undefined; tabs: ReactNode }) {
  const answer = useRows("features/associations", feature === undefined ? null : { run: of.run, sae: of.sae, feature });
  const rows = answer.data;
  return (
    <Panel
      title="Goes with"
      name="associations"
      className="features-detail"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.at(-1) }}
    >
      <div className="told">
        {tabs}
        <span className="muted">share of a value's tokens that it is active at, and of the others; q_value: the part of such findings that is expected to be false</span>
      </div>
      <Show answer={answer}>
        {(found) =>
          found.length === 0 ? (
            <p className="padded muted">It is active in too few examples to be tested.</p>
          ) : (
            <DataTable rows={found} label={`What feature ${feature ?? ""} goes with`} columns={["property", "value", "q_value", "share", "elsewhere", "z", "n_active"]} render={RENDER} />
          )
        }
      </Show>
    </Panel>
  );
}
