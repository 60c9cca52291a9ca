import type { Rows, Value } from "../../api/rows";
import { DataTable } from "../../components/DataTable";
import { inShort, percent, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { columnOf, type Measure } from "./difference";

interface Props {
  rows: Rows;
  /** The segments that differ, the largest difference first. */
  order: readonly number[];
  measure: Measure;
  chosen: number | undefined;
  onChoose: (segment: number) => void;
}

/** Where two runs differ most in a text. */
export function MostPanel({ rows, order, measure, chosen, onChoose }: Props) {
  const sides = measure === "kl" ? ["a_loss", "b_loss"] : [`a_${measure}`, `b_${measure}`];
  const columns = ["pos", "text", columnOf(measure), "a_pred_token", "b_pred_token", ...sides];
  const number = (value: Value) => (typeof value === "number" ? (measure === "prob" ? percent(Math.abs(value)) : inShort(value)) : "");
  const token = (value: Value) => (typeof value === "string" ? visible(value) : "");
  return (
    <Panel title="What differs most" name="what differs most" className="grow" note={`${order.length.toLocaleString("en-US")} of ${rows.length.toLocaleString("en-US")} differ`} rows={() => rows}>
      {order.length === 0 ? (
        <p className="padded muted">Nothing differs here.</p>
      ) : (
        <DataTable
          rows={rows}
          label="What differs most"
          columns={columns}
          order={order}
          chosen={chosen}
          onChoose={onChoose}
          render={{ text: token, a_pred_token: token, b_pred_token: token, [sides[0] ?? ""]: number, [sides[1] ?? ""]: number, [columnOf(measure)]: (value) => (typeof value === "number" ? inShort(value) : "") }}
        />
      )}
    </Panel>
  );
}
