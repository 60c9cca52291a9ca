import { useMemo } from "react";
import type { Rows, Value } from "../../api/rows";
import { Command } from "../../components/Command";
import { DataTable } from "../../components/DataTable";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { update } from "../../url/place";
import type { CauseRun } from "./causeRuns";
import { everyRow } from "./effectPanels";

interface Props {
  run: CauseRun;
  rows: Rows;
  column: string;
  layer: number | undefined;
  head: number | undefined;
}

const COLUMNS = ["layer", "head", "effect", "effect_low", "effect_high", "induction_mass", "previous_token_mass", "first_token_mass", "effect_normalised", "n", "kind", "site"];

const SHORT = ["effect", "effect_low", "effect_high", "effect_normalised", "induction_mass", "previous_token_mass", "first_token_mass"];

/** Interventions by the size of their effect, beside how the heads attend on the same prompts. */
export function StrongestPanel({ run, rows, column, layer, head }: Props) {
  const order = useMemo(() => everyRow(rows).sort((a, b) => size(rows, b, column) - size(rows, a, column)), [rows, column]);
  const chosen = order.find((row) => layer !== undefined && rows.number(row, "layer") === layer && rows.number(row, "head") === (head ?? null));
  const hint = rows.notes["hint"];
  return (
    <Panel
      title="The strongest"
      name="strongest"
      className="grow"
      note={`${rows.length.toLocaleString("en-US")} interventions of ${run.run}, the largest effects first`}
      rows={() => rows}
      ways={{
        sql: rows.notes.sql?.at(-1),
        python: `wh.ask("heads_that_matter", run="${run.run}").df()`,
        command: `traces ask heads_that_matter --run ${run.run}`,
      }}
    >
      {typeof hint === "string" ? (
        <div className="told">
          <span className="muted">How these heads attend:</span> <Command text={hint} />
        </div>
      ) : null}
      <DataTable
        rows={rows}
        order={order}
        label="Interventions by size of effect"
        columns={COLUMNS.filter((name) => everyRow(rows).some((row) => rows.get(row, name) !== null))}
        render={Object.fromEntries(SHORT.map((name) => [name, (value: Value) => inShort(typeof value === "number" ? value : null)]))}
        chosen={chosen}
        onChoose={(row) => update({ l: rows.number(row, "layer") ?? undefined, h: rows.number(row, "head") ?? undefined })}
      />
    </Panel>
  );
}

function size(rows: Rows, row: number, column: string): number {
  return Math.abs(rows.number(row, column) ?? 0);
}
