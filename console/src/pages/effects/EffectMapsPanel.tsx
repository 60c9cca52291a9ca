import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { around0 } from "../../colour/palette";
import { Choice } from "../../components/Choice";
import { LabelledHeatmap } from "../../components/LabelledHeatmap";
import { Legend } from "../../components/Legend";
import { Panel } from "../../components/Panel";
import { useSize } from "../../components/useSize";
import { useMarkedHeads } from "../../heads/useMarkedHeads";
import { SelectedHere } from "../../selection/SelectedHere";
import { update } from "../../url/place";
import type { CauseRun } from "./causeRuns";
import { CauseRunSelect } from "./CauseRunSelect";
import { EffectTip } from "./EffectTip";
import type { EffectPanel } from "./effectPanels";

interface Props {
  run: CauseRun;
  runs: readonly CauseRun[];
  /** Runs of the same task that can be shown beside it. */
  others: readonly CauseRun[];
  panels: readonly EffectPanel[];
  rows: Rows;
  label: string;
  normalised: boolean;
  layer: number | undefined;
  head: number | undefined;
}

/** Effects by layer and head, kinds side by side on one scale that is centred at 0. */
export function EffectMapsPanel({ run, runs, others, panels, rows, label, normalised, layer, head }: Props) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const scale = useMemo(() => around0(panels.flatMap((panel) => Array.from(panel.values))), [panels]);
  const shown = new Set(panels.map((panel) => panel.run));
  const metrics = Array.isArray(rows.notes["metrics"]) ? (rows.notes["metrics"] as string[]) : [];
  const marked = useMarkedHeads({});
  const columns = panels.reduce((sum, panel) => sum + panel.columns.length, 0);
  const room = width - 16 - panels.length * 56;
  return (
    <Panel
      title={`Effects${run.task ? `: ${run.task}` : ""}`}
      name="effects"
      main
      className="effect-maps filled"
      rows={() => rows}
      ways={{
        sql: rows.notes.sql?.at(-1),
        python: `wh.sql("FROM head_effects WHERE run_id = '${run.run}' ORDER BY abs(effect) DESC").df()`,
        command: `traces plot effects ${run.run}`,
      }}
      controls={
        <>
          <CauseRunSelect run={run} runs={runs} />
          {metrics.length > 1 ? (
            <label className="field">
              <span className="muted">metric</span>
              <select value={String(rows.notes["shown"])} onChange={(event) => update({ metric: event.target.value })}>
                {metrics.map((metric) => (
                  <option key={metric}>{metric}</option>
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
            onChoose={(value) => update({ norm: value === "1" ? "1" : undefined }, "replace")}
          />
        </>
      }
    >
      <div className="told">
        <Legend scale={scale} label={label} />
        <SelectedHere place={{}} of="of heads" />
      </div>
      {others.length > 1 ? (
        <div className="told" role="group" aria-label="Runs beside this one">
          <span className="muted">side by side:</span>
          {others.map((each) => (
            <label key={each.run} className="field">
              <input
                type="checkbox"
                checked={shown.has(each.run)}
                disabled={each.run === run.run}
                onChange={() => update({ with: toggled(others, run, shown, each.run) }, "replace")}
              />
              {each.run}
            </label>
          ))}
        </div>
      ) : null}
      <div ref={box} className="fills side-by-side">
        {panels.map((panel) => (
          <figure key={`${panel.run} ${panel.kind}`}>
            <figcaption>
              <b>{panel.kind}</b> <span className="muted">{panel.run}</span>
            </figcaption>
            <LabelledHeatmap
              values={panel.values}
              rowLabels={Array.from({ length: panel.layers }, (_, place) => String(panel.from + place))}
              colLabels={panel.columns}
              rowTitle="layer"
              colTitle="head"
              scale={scale}
              label={`${label} by layer and head, ${panel.kind}, run ${panel.run}`}
              width={56 + (room * panel.columns.length) / Math.max(columns, 1)}
              height={height - 40}
              most={{ width: 46, height: 32 }}
              upwards
              chosen={layer === undefined ? undefined : { row: layer - panel.from, ...(head === undefined ? {} : { col: head }) }}
              marked={marked.flatMap((cell) => (cell.row >= panel.from ? [{ row: cell.row - panel.from, col: cell.col }] : []))}
              tell={({ row, col }) => <EffectTip rows={panel.rows} row={panel.of[row * panel.columns.length + col] ?? -1} />}
              onChoose={({ row, col }) => update({ l: panel.from + row, h: isHead(panel, col) ? col : undefined })}
            />
          </figure>
        ))}
      </div>
    </Panel>
  );
}

function isHead(panel: EffectPanel, col: number): boolean {
  return panel.columns[col] === String(col);
}

function toggled(others: readonly CauseRun[], run: CauseRun, shown: ReadonlySet<string>, name: string): string {
  return others
    .map((each) => each.run)
    .filter((each) => each !== run.run && (each === name ? !shown.has(each) : shown.has(each)))
    .join(",");
}
