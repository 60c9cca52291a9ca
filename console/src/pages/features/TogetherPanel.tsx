import type { ReactNode } from "react";
import type { Value } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update } from "../../url/place";
import type { Encoded } from "./encoded";

const number = (value: Value) => (typeof value === "number" ? inShort(value) : "");
const RENDER = { jaccard: number, pmi: number };

/** The features that are active at the same tokens as one, the most alike first. */
export function TogetherPanel({ of, feature, tabs }: { of: Encoded; feature: number | undefined; tabs: ReactNode }) {
  const answer = useRows("features/together", feature === undefined ? null : { run: of.run, sae: of.sae, feature });
  const rows = answer.data;
  const several = rows !== undefined && Array.from({ length: rows.length }, (_, row) => rows.text(row, "other_sae")).some((name) => name !== of.sae);
  return (
    <Panel
      title="Active together"
      name="together"
      className="features-detail"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.at(-1) }}
    >
      <div className="told">
        {tabs}
        <span className="muted">by Jaccard: the tokens that both are active at, in parts of those that either is; pmi in nats</span>
      </div>
      <Show answer={answer}>
        {(found) =>
          found.length === 0 ? (
            <p className="padded muted">No other feature is active at its tokens.</p>
          ) : (
            <DataTable
              rows={found}
              label={`Features active together with ${feature ?? ""}`}
              columns={["other_feature", "jaccard", "n_both", "pmi", ...(several ? ["other_sae"] : [])]}
              onChoose={(row) => update({ f: found.number(row, "other_feature") ?? undefined, sae: found.text(row, "other_sae") })}
              render={RENDER}
            />
          )
        }
      </Show>
    </Panel>
  );
}
