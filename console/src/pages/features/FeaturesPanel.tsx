import type { Rows, Value } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { DataTable } from "../../components/DataTable";
import { inShort, percent } from "../../components/numbers";
import { NumberField } from "../../components/NumberField";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useKey } from "../../keys/keys";
import { update } from "../../url/place";
import type { Encoded } from "./encoded";

interface Props {
  of: Encoded;
  answer: Answer<Rows>;
  feature: number | undefined;
  order: string;
}

const ORDERS = [
  ["tokens", "most tokens"],
  ["rare", "fewest tokens"],
  ["examples", "most examples"],
  ["max", "largest activation"],
  ["mean", "largest mean"],
  ["number", "number"],
] as const;
const COLUMNS = ["feature", "n_tokens", "density", "max_activation", "mean_activation", "n_examples"];
const number = (value: Value) => (typeof value === "number" ? inShort(value) : "");
const RENDER = { density: (value: Value) => (typeof value === "number" ? percent(value) : ""), max_activation: number, mean_activation: number };

/** The features that are active somewhere, to choose from; a field leads to one by its number. */
export function FeaturesPanel({ of, answer, feature, order }: Props) {
  const rows = answer.data;
  const at = rows ? Array.from({ length: rows.length }, (_, row) => row).find((row) => rows.number(row, "feature") === feature) : undefined;
  const choose = (row: number) => {
    if (rows && row >= 0 && row < rows.length) update({ f: rows.number(row, "feature") ?? undefined });
  };
  useKey("ArrowDown", "the next feature", () => choose((at ?? -1) + 1), rows !== undefined);
  useKey("ArrowUp", "the feature before", () => choose((at ?? 1) - 1), rows !== undefined);
  return (
    <Panel
      title="Features"
      name="features"
      className="grow"
      note={rows ? noteOf(rows) : null}
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.at(-1),
        python: `wh.sql("FROM feature_counts WHERE run_id = '${of.run}' AND sae = '${of.sae}' ORDER BY n_tokens DESC").df()`,
        command: `traces sql "FROM feature_counts WHERE run_id = '${of.run}' AND sae = '${of.sae}' ORDER BY n_tokens DESC LIMIT 50"`,
      }}
      controls={
        <>
          <NumberField label="feature" value={feature ?? 0} most={of.features - 1} onChange={(next) => update({ f: next }, "replace")} />
          <label className="field">
            <span className="muted">order</span>
            <select value={order} onChange={(event) => update({ order: event.target.value === "tokens" ? undefined : event.target.value }, "replace")}>
              {ORDERS.map(([name, title]) => (
                <option key={name} value={name}>
                  {title}
                </option>
              ))}
            </select>
          </label>
        </>
      }
    >
      <Show answer={answer}>{(found) => <DataTable rows={found} label="Features" columns={COLUMNS} chosen={at} onChoose={choose} render={RENDER} />}</Show>
    </Panel>
  );
}

function noteOf(rows: Rows): string {
  const total = rows.notes.total ?? rows.length;
  const all = rows.notes["n_features"];
  return `${inShort(rows.length)} of ${inShort(total)} shown${typeof all === "number" && all > total ? `; ${inShort(all - total)} are never active` : ""}`;
}
