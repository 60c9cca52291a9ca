import { useEffect, useMemo } from "react";
import { useGone } from "../../api/useGone";
import { useRows } from "../../api/useRows";
import { Empty } from "../../components/Empty";
import { Missing } from "../../components/Missing";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Rows } from "../../api/rows";
import { go, usePlace } from "../../url/place";
import { lookedAt } from "../../url/remembered";
import { CauseRunSelect } from "./CauseRunSelect";
import { causeRuns, meant } from "./causeRuns";
import { HeadEffectsView } from "./HeadEffectsView";
import { InfluenceView } from "./InfluenceView";
import { PatchingView } from "./PatchingView";

/** What causes what: heads that were cut, states that were put back, and what influences a prediction. */
export function EffectsPage() {
  const answer = useRows("effects/runs", {});
  return <Show answer={answer}>{(rows) => <OfRun rows={rows} />}</Show>;
}

function OfRun({ rows }: { rows: Rows }) {
  const place = usePlace();
  const runs = useMemo(() => causeRuns(rows), [rows]);
  const named = place.parts[0];
  const gone = useGone(named);
  const run = named === undefined ? (meant(runs, lookedAt()) ?? meant(runs, undefined)) : meant(runs, named);
  const found = run?.run;
  useEffect(() => {
    if (named === undefined && found !== undefined) go({ ...place, parts: [found] }, "replace");
  }, [named, found, place]);
  if (runs.length === 0 && !gone) {
    return <Empty command="traces task prepare ioi --model smollm2 --capture qkv,heads --run ioi && traces ablate ioi">Nothing was intervened on yet. A task's pairs, and its heads cut one by one:</Empty>;
  }
  if (!run) {
    return (
      <Panel title="Effects" name="effects" controls={<CauseRunSelect run={undefined} runs={runs} />}>
        {gone && named !== undefined ? (
          <Missing run={named} />
        ) : (
          <Empty command={`traces ablate ${named ?? ""}`}>
            Run {named} has neither effects nor influence, and no run with them was made from it. If it is a task's run, this makes one:
          </Empty>
        )}
      </Panel>
    );
  }
  if (run.view === "influence") return <InfluenceView run={run} runs={runs} />;
  return run.view === "positions" ? <PatchingView run={run} runs={runs} /> : <HeadEffectsView run={run} runs={runs} />;
}
