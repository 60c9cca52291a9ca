import { useMemo } from "react";
import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { upTo, type Scale } from "../../colour/palette";
import { Choice } from "../../components/Choice";
import { Facts } from "../../components/Facts";
import { LabelledHeatmap } from "../../components/LabelledHeatmap";
import { Legend } from "../../components/Legend";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { gridOf, numbersTo } from "../../heads/grid";
import { useMarkedHeads } from "../../heads/useMarkedHeads";
import { METRICS, metricNamed, type Metric } from "../heads/metrics";
import { update, usePlace } from "../../url/place";
import type { Head } from "./head";

/** How every head of the model attends, on this text or on average over its run; a click chooses the head. */
export function GridPanel({ of, side }: { of: Head; side: string }) {
  const place = usePlace();
  const metric = metricNamed(place.params["metric"] ?? "induction_mass");
  const over = place.params["over"] === "run" ? "run" : "text";
  const answer = useRows("heads", over === "run" ? { run: of.run } : { run: of.run, example: of.example, seq: of.seq });
  const scale = useMemo(() => upTo("mass", answer.data ? most(answer.data, metric.name, side) : 1), [answer.data, metric, side]);
  return (
    <Panel
      title="Heads"
      name="heads"
      className="attention-grid text-fills"
      rows={() => answer.data}
      ways={{ sql: answer.data?.notes.sql?.at(-1) }}
    >
      <div className="attention-told">
        <select aria-label="metric" value={metric.name} onChange={(event) => update({ metric: event.target.value }, "replace")}>
          {METRICS.map((each) => (
            <option key={each.name} value={each.name}>
              {each.title}
            </option>
          ))}
        </select>
        <Choice
          label="over"
          of={[
            ["text", "this text"],
            ["run", "run"],
          ]}
          chosen={over}
          onChoose={(next) => update({ over: next === "run" ? "run" : undefined }, "replace")}
        />
        {answer.data ? <Legend scale={scale} label={metric.unit} /> : null}
      </div>
      <Show answer={answer}>{(rows) => <GridMap rows={rows} of={of} side={side} metric={metric} scale={scale} />}</Show>
    </Panel>
  );
}

function GridMap({ rows, of, side, metric, scale }: { rows: Rows; of: Head; side: string; metric: Metric; scale: Scale }) {
  const [box, size] = useSize<HTMLDivElement>();
  const grid = useMemo(() => gridOf(rows, metric.name, (row) => rows.text(row, "side") === side), [rows, metric, side]);
  const marked = useMarkedHeads({ run_id: of.run, example_id: of.example });
  return (
    <div ref={box} className="attention-fill">
      <LabelledHeatmap
        values={grid.values}
        rowLabels={numbersTo(grid.layers)}
        colLabels={numbersTo(grid.heads)}
        rowTitle="layer"
        colTitle="head"
        scale={scale}
        label={`${metric.title} (${metric.unit}) by layer and head`}
        width={size.width}
        height={size.height}
        most={{ width: 40, height: 24 }}
        upwards
        chosen={{ row: of.layer, col: of.head }}
        marked={marked}
        tell={({ row, col }) => {
          const at = grid.rows[row * grid.heads + col] ?? -1;
          return <Facts of={[["head", `L${row}H${col}`], ...METRICS.map((each) => [each.title, at < 0 ? "" : inShort(rows.number(at, each.name))] as const)]} />;
        }}
        onChoose={({ row, col }) => update({ l: row, h: col })}
      />
    </div>
  );
}

function most(rows: Rows, name: string, side: string): number {
  let found = 0;
  for (let row = 0; row < rows.length; row += 1) if (rows.text(row, "side") === side) found = Math.max(found, rows.number(row, name) ?? 0);
  return found;
}
