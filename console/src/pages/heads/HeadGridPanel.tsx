import { useMemo } from "react";
import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { upTo } from "../../colour/palette";
import { Choice } from "../../components/Choice";
import { Facts } from "../../components/Facts";
import { LabelledHeatmap } from "../../components/LabelledHeatmap";
import { Legend } from "../../components/Legend";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { gridOf, gridSize, numbersTo } from "../../heads/grid";
import { useMarkedHeads } from "../../heads/useMarkedHeads";
import { useKey } from "../../keys/keys";
import { SelectedHere } from "../../selection/SelectedHere";
import { RunSelect } from "../../texts/RunSelect";
import { currentPlace, go, update } from "../../url/place";
import { METRICS, type Metric } from "./metrics";

interface Props {
  run: string;
  side: string;
  metric: Metric;
  layer: number | undefined;
  head: number | undefined;
}

/** The mean of a metric of every head of a run, layer above layer. */
export function HeadGridPanel({ run, side, metric, layer, head }: Props) {
  const answer = useRows("heads", { run });
  const sides = useMemo(() => (answer.data ? sidesOf(answer.data) : []), [answer.data]);
  const shown = sides.includes(side) ? side : (sides[0] ?? "dec");
  const scale = useMemo(() => upTo("mass", answer.data ? largest(answer.data, metric.name, shown) : 1), [answer.data, metric, shown]);
  const size = answer.data ? gridSize(answer.data) : { layers: 0, heads: 0 };
  const move = (by: number) => update({ h: Math.min(Math.max((head ?? 0) + by, 0), size.heads - 1), l: layer ?? 0, low: undefined, high: undefined }, "replace");
  useKey("[", "the head before", () => move(-1), size.heads > 0);
  useKey("]", "the next head", () => move(1), size.heads > 0);

  return (
    <Panel
      title="Heads"
      name="heads"
      main
      className="head-grid filled"
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.at(-1),
        python: `wh.sql("SELECT layer, head, avg(${metric.name}) AS ${metric.name} FROM heads WHERE source_run_id = '${run}' GROUP BY ALL ORDER BY ALL").df()`,
        command: `traces sql "SELECT layer, head, avg(${metric.name}) AS ${metric.name} FROM heads WHERE source_run_id = '${run}' GROUP BY ALL ORDER BY ALL"`,
      }}
      controls={
        <>
          <RunSelect run={run} label="run" onChoose={(name) => go({ ...currentPlace(), parts: [name] })} />
          <label className="field">
            <span className="muted">metric</span>
            <select value={metric.name} onChange={(event) => update({ metric: event.target.value, low: undefined, high: undefined })}>
              {METRICS.map((each) => (
                <option key={each.name} value={each.name}>
                  {each.title}
                </option>
              ))}
            </select>
          </label>
          {sides.length > 1 ? <Choice label="side" of={sides.map((name) => [name, name] as const)} chosen={shown} onChoose={(name) => update({ side: name })} /> : null}
        </>
      }
    >
      <div className="told">
        {answer.data ? <Legend scale={scale} label={`${metric.title} (${metric.unit})`} /> : null}
        {answer.data && answer.data.length > 0 ? <span className="muted">mean over {inShort(answer.data.number(0, "n"))} sequences</span> : null}
        <SelectedHere place={{ run_id: run }} of="in this run" />
      </div>
      <Show answer={answer}>{(rows) => <HeadMap rows={rows} run={run} side={shown} metric={metric} scale={scale} layer={layer} head={head} />}</Show>
    </Panel>
  );
}

function HeadMap({ rows, run, side, metric, scale, layer, head }: Props & { rows: Rows; scale: ReturnType<typeof upTo> }) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const grid = useMemo(() => gridOf(rows, metric.name, (row) => rows.text(row, "side") === side), [rows, metric, side]);
  const marked = useMarkedHeads({ run_id: run });
  return (
    <div ref={box} className="fills">
      <LabelledHeatmap
        values={grid.values}
        rowLabels={numbersTo(grid.layers)}
        colLabels={numbersTo(grid.heads)}
        rowTitle="layer"
        colTitle="head"
        scale={scale}
        label={`${metric.title} (${metric.unit}) by layer and head of run ${run}`}
        width={width - 16}
        height={height - 16}
        most={{ width: 48, height: 26 }}
        upwards
        chosen={layer === undefined ? undefined : { row: layer, ...(head === undefined ? {} : { col: head }) }}
        marked={marked}
        tell={({ row, col }) => <HeadTip rows={rows} row={grid.rows[row * grid.heads + col] ?? -1} layer={row} head={col} />}
        onChoose={({ row, col }) => update({ l: row, h: col, side: side === "dec" ? undefined : side, low: undefined, high: undefined })}
      />
    </div>
  );
}

function HeadTip({ rows, row, layer, head }: { rows: Rows; row: number; layer: number; head: number }) {
  if (row < 0) return <>L{layer}H{head}: nothing is known of it</>;
  return (
    <Facts
      of={[
        ["head", `L${layer}H${head}`],
        ...METRICS.map((each) => [`${each.title} (${each.unit})`, inShort(rows.number(row, each.name)) || "none"] as const),
        ["sequences", inShort(rows.number(row, "n"))],
      ]}
    />
  );
}

function sidesOf(rows: Rows): string[] {
  return [...new Set(Array.from({ length: rows.length }, (_, row) => rows.text(row, "side")))].sort();
}

function largest(rows: Rows, name: string, side: string): number {
  let most = 0;
  for (let row = 0; row < rows.length; row += 1) if (rows.text(row, "side") === side) most = Math.max(most, rows.number(row, name) ?? 0);
  return most;
}
