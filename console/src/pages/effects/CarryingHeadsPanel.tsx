import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { around0, upTo } from "../../colour/palette";
import { DataTable } from "../../components/DataTable";
import { Empty } from "../../components/Empty";
import { LabelledHeatmap } from "../../components/LabelledHeatmap";
import { Legend } from "../../components/Legend";
import { asText, inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { numbersTo } from "../../heads/grid";
import { useMarkedHeads } from "../../heads/useMarkedHeads";
import { formatPlace, numberParam } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import { carried } from "./carried";
import type { CauseRun } from "./causeRuns";
import type { Target } from "./InfluencePanel";
import type { Measure } from "./measures";

interface Props {
  run: CauseRun;
  text: Target;
  measure: Measure;
  source: number | undefined;
  /** The token there. */
  token: string;
}

/** The heads that carry influence from the chosen token, or from all of them, to the prediction. */
export function CarryingHeadsPanel({ run, text, measure, source, token }: Props) {
  const place = usePlace();
  const byHead = measure.name === "logit" || measure.name === "ifr";
  const answer = useRows("influence/heads", byHead ? { ...text, source, measure: measure.name } : null);
  const rows = answer.data;
  const layer = numberParam(place, "l");
  const head = numberParam(place, "h");
  const chosen = rows && layer !== undefined ? Array.from({ length: rows.length }, (_, row) => row).find((row) => rows.number(row, "layer") === layer && rows.number(row, "head") === (head ?? null)) : undefined;
  const from = source === undefined ? "all tokens" : `${visible(token)} (${source})`;
  return (
    <Panel
      title={`Heads that carry it from ${from}`}
      name="carrying-heads"
      className="grow"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown, ${rows.notes.rule ?? ""}` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.at(-1) }}
      controls={
        <>
          {source === undefined ? <span className="muted">click a token to see what carries it alone</span> : null}
          {layer !== undefined && head !== undefined ? (
            <a href={formatPlace({ page: "attention", parts: [run.source, text.example, String(text.seq)], params: { l: String(layer), h: String(head), pos: String(text.pos) } })}>
              L{layer}H{head} in Attention
            </a>
          ) : null}
        </>
      }
    >
      {byHead ? (
        <Show answer={answer}>
          {(found) => (
            <div className="columns carrying">
              <CarryingMap rows={found} measure={measure} layer={layer} head={head} run={run} example={text.example} />
              <DataTable
                rows={found}
                label="Heads by what they carry"
                columns={["value", "part", "layer", "head", ...(found.has("source_token") ? ["source_pos", "source_token", "pos", "token"] : ["pos"])]}
                render={{ source_token: (value) => visible(asText(value)) }}
                chosen={chosen}
                onChoose={(row) => update({ l: found.number(row, "layer") ?? undefined, h: found.number(row, "head") ?? undefined })}
              />
            </div>
          )}
        </Show>
      ) : (
        <Empty>Which heads carry it is known of the measures logit and information flow.</Empty>
      )}
    </Panel>
  );
}

function CarryingMap({ rows, measure, layer, head, run, example }: { rows: Rows; measure: Measure; layer: number | undefined; head: number | undefined; run: CauseRun; example: string }) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const grid = useMemo(() => carried(rows), [rows]);
  const scale = useMemo(() => (measure.signed ? around0(grid.values) : upTo("mass", grid.values.reduce((most, value) => Math.max(most, value || 0), 0))), [grid, measure]);
  const marked = useMarkedHeads({ run_id: run.source, example_id: example });
  const unit = measure.signed ? "logits" : "flow";
  return (
    <div className="stack carrying-map">
      <div className="told">
        <Legend scale={scale} label={unit} />
      </div>
      <div ref={box} className="fills">
        <LabelledHeatmap
          values={grid.values}
          rowLabels={numbersTo(grid.layers)}
          colLabels={numbersTo(grid.heads)}
          rowTitle="layer"
          colTitle="head"
          scale={scale}
          label={`What each head carries (${unit}), by layer and head`}
          width={width - 16}
          height={height - 16}
          most={{ width: 40, height: 20 }}
          upwards
          chosen={layer === undefined ? undefined : { row: layer, ...(head === undefined ? {} : { col: head }) }}
          marked={marked}
          tell={({ row, col }) => `L${row}H${col}: ${inShort(grid.values[row * grid.heads + col]) || "nothing stored"}`}
          onChoose={({ row, col }) => update({ l: row, h: col })}
        />
      </div>
    </div>
  );
}
