import { useMemo } from "react";
import { ApiError, getRows } from "../../api/client";
import type { Rows } from "../../api/rows";
import { useAnswer } from "../../api/useAnswer";
import { Show } from "../../components/Show";
import { numberParam } from "../../url/codec";
import { usePlace } from "../../url/place";
import { besides, type CauseRun } from "./causeRuns";
import { EffectMapsPanel } from "./EffectMapsPanel";
import { layerRange, panelsOf } from "./effectPanels";
import { OnePairPanel } from "./OnePairPanel";
import { PairsPanel } from "./PairsPanel";
import { StrongestPanel } from "./StrongestPanel";
import { quantity } from "./units";

const MOST = 4;

interface Of {
  run: string;
  rows: Rows;
}

/** Heads and blocks that were cut or patched one by one: kinds side by side, the strongest, and what one does on each pair. */
export function HeadEffectsView({ run, runs }: { run: CauseRun; runs: readonly CauseRun[] }) {
  const place = usePlace();
  const others = besides(runs, run);
  const asked = place.params["with"]?.split(",");
  const beside = others.filter((each) => each.run !== run.run && (asked === undefined || asked.includes(each.run))).slice(0, MOST - 1);
  const shown = [run, ...beside].map((each) => each.run);
  const metric = place.params["metric"];
  const answer = useAnswer(`effects of ${shown.join(" ")} on ${metric ?? ""}`, (signal) => load(shown, metric, signal));
  return <Show answer={answer}>{(found) => <Loaded run={run} runs={runs} others={others} found={found} />}</Show>;
}

/** The first run must have effects; those beside it are left out where they were measured otherwise. */
async function load(runs: readonly string[], metric: string | undefined, signal: AbortSignal): Promise<Of[]> {
  const all = await Promise.all(
    runs.map(async (run, place) => {
      try {
        return { run, rows: await getRows("effects", { run, metric }, signal) };
      } catch (problem) {
        if (place > 0 && problem instanceof ApiError && (problem.kind === "empty" || problem.kind === "not_found")) return null;
        throw problem;
      }
    }),
  );
  return all.filter((each) => each !== null);
}

interface LoadedProps {
  run: CauseRun;
  runs: readonly CauseRun[];
  others: readonly CauseRun[];
  found: readonly Of[];
}

function Loaded({ run, runs, others, found }: LoadedProps) {
  const place = usePlace();
  const normalised = place.params["norm"] === "1";
  const rows = found[0]?.rows;
  const metric = typeof rows?.notes["shown"] === "string" ? rows.notes["shown"] : "";
  const { column, label } = quantity(normalised, metric);
  const layer = numberParam(place, "l");
  const head = numberParam(place, "h");
  const side = place.params["side"] ?? (rows && rows.length > 0 ? rows.text(0, "side") : "dec");
  const panels = useMemo(() => {
    const alike = found.filter((each) => each.rows.notes["shown"] === metric);
    const [from, to] = layerRange(alike.map((each) => each.rows));
    return alike.flatMap((each) => panelsOf(each.run, each.rows, column, side, from, to));
  }, [found, metric, column, side]);
  if (!rows) return null;
  return (
    <div className="columns effects-page">
      <EffectMapsPanel run={run} runs={runs} others={others} panels={panels} rows={rows} label={label} normalised={normalised} layer={layer} head={head} />
      <div className="stack grow">
        <StrongestPanel run={run} rows={rows} column={column} layer={layer} head={head} />
        <PairsOfHead run={run} rows={rows} metric={metric} layer={layer} head={head} />
      </div>
    </div>
  );
}

function PairsOfHead({ run, rows, metric, layer, head }: { run: CauseRun; rows: Rows; metric: string; layer: number | undefined; head: number | undefined }) {
  const row = Array.from({ length: rows.length }, (_, place) => place).find(
    (place) => layer !== undefined && rows.number(place, "layer") === layer && rows.number(place, "head") === (head ?? null),
  );
  if (row === undefined) return null;
  const of = { run: run.run, source: run.source, intervention: rows.number(row, "intervention_id") ?? 0, spec: rows.text(row, "spec"), metric };
  return (
    <>
      <PairsPanel of={of} />
      <OnePairPanel of={of} layer={layer} head={head} side={rows.text(row, "side")} />
    </>
  );
}
