import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { around0, upTo } from "../../colour/palette";
import { Choice } from "../../components/Choice";
import { Facts } from "../../components/Facts";
import { Legend } from "../../components/Legend";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { Strip } from "../../components/Strip";
import { SelectedHere } from "../../selection/SelectedHere";
import { stripTokens } from "../../texts/tokens";
import { useMarked } from "../../texts/useMarked";
import { formatPlace } from "../../url/codec";
import { update } from "../../url/place";
import type { CauseRun } from "./causeRuns";
import { CauseRunSelect } from "./CauseRunSelect";
import { everyRow } from "./effectPanels";
import { taken, type Measure } from "./measures";

export interface Target {
  /** The influence run. */
  run: string;
  example: string;
  seq: number;
  /** The position that the explained prediction is made from. */
  pos: number;
}

interface Props {
  run: CauseRun;
  runs: readonly CauseRun[];
  targets: Rows;
  /** The target that is shown. */
  row: number;
  text: Target;
  answer: Answer<Rows>;
  measures: readonly string[];
  measure: Measure;
  source: number | undefined;
}

/** A text, each token coloured by its influence on one prediction. A click on a token lists the heads that carry it. */
export function InfluencePanel({ run, runs, targets, row, text, answer, measures, measure, source }: Props) {
  const rows = answer.data;
  const scale = useMemo(() => {
    const values = rows ? everyRow(rows).flatMap((each) => rows.number(each, measure.column) ?? []) : [];
    return measure.signed ? around0(values) : upTo("mass", Math.max(0, ...values));
  }, [rows, measure]);
  const against = targets.text(row, "against_token");
  return (
    <Panel
      title="Influence"
      name="influence"
      main
      note={
        <>
          on <b className="mono">{visible(targets.text(row, "target_token"))}</b>
          {against ? (
            <>
              {" "}
              against <b className="mono">{visible(against)}</b>
            </>
          ) : null}
          : {targets.text(row, "quantity")}
          {against ? " difference" : ""} {inShort(targets.number(row, "logit"))}, sum of its parts {inShort(targets.number(row, "parts_sum"))}
        </>
      }
      rows={() => rows}
      ways={{
        sql: `FROM influences WHERE run_id = '${text.run}' AND example_id = '${text.example}' AND seq = ${text.seq} AND pos = ${text.pos} ORDER BY source_pos`,
        python: `wh.sql("FROM influences WHERE run_id = '${text.run}' AND example_id = '${text.example}' AND seq = ${text.seq} ORDER BY source_pos").df()`,
        command: `traces ask why_this_token --run ${text.run} --example ${text.example}`,
      }}
      controls={
        <>
          <CauseRunSelect run={run} runs={runs} />
          <label className="field">
            <span className="muted">prediction</span>
            <select
              className="wide"
              value={row}
              onChange={(event) => {
                const chosen = Number(event.target.value);
                update({ example: targets.text(chosen, "example_id"), s: targets.number(chosen, "seq") ?? 0, at: targets.number(chosen, "pos") ?? 0, pos: undefined });
              }}
            >
              {everyRow(targets).map((each) => (
                <option key={each} value={each}>
                  {targets.text(each, "text").slice(0, 90)} →{visible(targets.text(each, "target_token"))} ({inShort(targets.number(each, "logit"))})
                </option>
              ))}
            </select>
          </label>
          <Choice label="measure" of={taken(measures).map((each) => [each.name, each.title] as const)} chosen={measure.name} onChoose={(name) => update({ measure: name })} />
        </>
      }
    >
      <div className="told">
        <Legend scale={scale} label={measure.label} />
        {(targets.notes.total ?? 0) > targets.length ? (
          <span className="muted">
            {targets.length} of {targets.notes.total} predictions listed, {targets.notes.rule}
          </span>
        ) : null}
        <a href={formatPlace({ page: "text", parts: [run.source, text.example, String(text.seq)], params: source === undefined ? {} : { pos: String(source) } })}>open in Text</a>
        <SelectedHere place={{ run_id: run.source, example_id: text.example, seq: text.seq }} />
      </div>
      <Show answer={answer}>{(found) => <InfluenceStrip rows={found} run={run} text={text} measure={measure} scale={scale} source={source} />}</Show>
    </Panel>
  );
}

interface StripProps {
  rows: Rows;
  run: CauseRun;
  text: Target;
  measure: Measure;
  scale: ReturnType<typeof upTo>;
  source: number | undefined;
}

function InfluenceStrip({ rows, run, text, measure, scale, source }: StripProps) {
  const tokens = useMemo(() => stripTokens(rows), [rows]);
  const values = useMemo(() => everyRow(rows).map((row) => rows.number(row, measure.column) ?? NaN), [rows, measure]);
  const marked = useMarked({ run: run.source, example: text.example, seq: text.seq, side: "" });
  return (
    <div className="padded">
      <Strip
        tokens={tokens}
        values={values}
        scale={scale}
        label={`Tokens by their influence (${measure.label})`}
        chosen={source}
        marked={marked}
        tell={(pos) => (
          <Facts
            of={[
              ["token", `${visible(tokens[pos]?.text ?? "")} (${pos})`],
              ...(["logit", "ifr", "value_norm", "occlusion"] as const).flatMap((name) => (rows.number(pos, name) === null ? [] : [[name, inShort(rows.number(pos, name))] as const])),
              ...(pos > text.pos ? [["", "after the explained position"] as const] : []),
            ]}
          />
        )}
        onChoose={(pos) => update({ pos: pos === source ? undefined : pos, l: undefined, h: undefined })}
      />
    </div>
  );
}
