import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Choice } from "../../components/Choice";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update, usePlace } from "../../url/place";
import type { CauseRun } from "./causeRuns";
import { CauseRunSelect } from "./CauseRunSelect";
import { everyRow, kindOf } from "./effectPanels";
import { PairSelect } from "./PairSelect";
import { PlaceMap } from "./PlaceMap";
import { quantity } from "./units";

/** States that were put into the pair's other prompt one by one: in which layer, at which token something is carried. */
export function PatchingView({ run, runs }: { run: CauseRun; runs: readonly CauseRun[] }) {
  const place = usePlace();
  const { example, template } = place.params;
  const answer = useRows("patching", { run: run.run, metric: place.params["metric"], example, template });
  const rows = answer.data;
  const normalised = place.params["norm"] !== "0";
  const metric = typeof rows?.notes["shown"] === "string" ? rows.notes["shown"] : "";
  const kinds = useMemo(() => (rows ? [...new Set(everyRow(rows).map((row) => `${rows.text(row, "site")}: ${kindOf(rows, row)}`))] : []), [rows]);
  const kind = kinds.find((each) => each === place.params["kind"]) ?? kinds[0] ?? "";
  const most = rows ? Math.max(0, ...everyRow(rows).map((row) => rows.number(row, "n") ?? 0)) : 0;
  return (
    <div className="columns effects-page">
      <Panel
        title={`Patching by position${run.task ? `: ${run.task}` : ""}`}
        name="patching"
        main
        className="grow filled"
        note={example ? "one pair" : template ? `mean over ${most} pairs of a template` : rows ? `mean over ${inShort(most)} pairs` : null}
        rows={() => rows}
        ways={{
          sql: rows?.notes.sql?.at(-1),
          python: `wh.sql("FROM effect_tokens WHERE run_id = '${run.run}' AND is_default ORDER BY example_id, layer, pos").df()`,
          command: `traces plot effects ${run.run}`,
        }}
        controls={
          <>
            <CauseRunSelect run={run} runs={runs} />
            <PairSelect run={run.run} />
            {kinds.length > 1 ? (
              <label className="field">
                <span className="muted">what</span>
                <select value={kind} onChange={(event) => update({ kind: event.target.value }, "replace")}>
                  {kinds.map((each) => (
                    <option key={each}>{each}</option>
                  ))}
                </select>
              </label>
            ) : null}
            <Choice
              label="effects"
              of={[
                ["0", "effect"],
                ["1", "normalised"],
              ]}
              chosen={normalised ? "1" : "0"}
              onChoose={(value) => update({ norm: value === "0" ? "0" : undefined }, "replace")}
            />
          </>
        }
      >
        <Show answer={answer}>{(found: Rows) => <PlaceMap run={run} rows={found} kind={kind} quantity={quantity(normalised, metric)} example={example} />}</Show>
      </Panel>
    </div>
  );
}
