import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Choice } from "../../components/Choice";
import { Legend } from "../../components/Legend";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Chosen, Sequence } from "../../texts/where";
import { update, usePlace } from "../../url/place";
import { LensMap } from "./LensMap";
import { lensOf, MEANINGS, METRICS, type Metric } from "./lens";
import { PanelTabs } from "./PanelTabs";

/** What each layer would have said after each token. */
export function LensPanel({ of, strip, chosen }: { of: Sequence; strip: Rows; chosen: Chosen }) {
  const place = usePlace();
  const metric: Metric = METRICS.map(([name]) => name).find((name) => name === place.params["lens"]) ?? "prob";
  const near = place.params["near"] !== "0";
  const answer = useRows("lens", { run: of.run, example: of.example, seq: of.seq });
  const lens = useMemo(() => (answer.data ? lensOf(answer.data) : null), [answer.data]);
  const meaning = MEANINGS[metric];
  const lensRun = typeof answer.data?.notes["lens_run"] === "string" ? answer.data.notes["lens_run"] : "";
  return (
    <Panel
      title={<PanelTabs />}
      name="lens"
      className="text-below text-fills"
      note={lensRun}
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.at(-1),
        python: `wh.sql("""FROM logit_lens WHERE run_id = '${lensRun}' AND example_id = '${of.example}' AND seq = ${of.seq}""").df()`,
        command: `traces plot lens ${of.run} --example ${of.example} --seq ${of.seq}`,
      }}
      controls={
        answer.data ? (
          <>
            <Legend scale={meaning.scale} label={meaning.label} transform={meaning.transform} ends={meaning.ends} />
            <Choice label="metric" of={METRICS} chosen={metric} onChoose={(next) => update({ lens: next === "prob" ? undefined : next }, "replace")} />
            <Choice
              label="tokens shown"
              of={[
                ["near", "around the token"],
                ["all", "all"],
              ]}
              chosen={near ? "near" : "all"}
              onChoose={(next) => update({ near: next === "all" ? "0" : undefined }, "replace")}
            />
          </>
        ) : null
      }
    >
      <Show answer={answer}>{(rows) => (lens ? <LensMap rows={rows} lens={lens} metric={metric} near={near} strip={strip} chosen={chosen} /> : null)}</Show>
    </Panel>
  );
}
