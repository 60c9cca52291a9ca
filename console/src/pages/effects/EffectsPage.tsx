import { useMemo } from "react";
import { useRows } from "../../api/useRows";
import { Empty } from "../../components/Empty";
import { Show } from "../../components/Show";
import type { Rows } from "../../api/rows";
import { usePlace } from "../../url/place";
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
  const run = meant(runs, place.parts[0]);
  if (runs.length === 0) {
    return <Empty command="traces task prepare ioi --model smollm2 --capture qkv,heads --run ioi && traces ablate ioi">Nothing was intervened on yet. A task's pairs, and its heads cut one by one:</Empty>;
  }
  if (!run) {
    return (
      <Empty command={`traces ablate ${place.parts[0] ?? ""}`}>
        There is no run {place.parts[0]} with effects or influence, and none that was made from it. If it is a task's run, this makes one:
      </Empty>
    );
  }
  if (run.view === "influence") return <InfluenceView run={run} runs={runs} />;
  return run.view === "positions" ? <PatchingView run={run} runs={runs} /> : <HeadEffectsView run={run} runs={runs} />;
}
