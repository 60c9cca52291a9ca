import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Show } from "../../components/Show";
import { numberParam } from "../../url/codec";
import { usePlace } from "../../url/place";
import { CarryingHeadsPanel } from "./CarryingHeadsPanel";
import type { CauseRun } from "./causeRuns";
import { everyRow } from "./effectPanels";
import { InfluencePanel } from "./InfluencePanel";
import { measureNamed } from "./measures";

/** What made a prediction: the text coloured by the influence of each token, and the heads that carry it. */
export function InfluenceView({ run, runs }: { run: CauseRun; runs: readonly CauseRun[] }) {
  const answer = useRows("influence/targets", { run: run.run });
  return <Show answer={answer}>{(targets) => <OfTarget run={run} runs={runs} targets={targets} />}</Show>;
}

function OfTarget({ run, runs, targets }: { run: CauseRun; runs: readonly CauseRun[]; targets: Rows }) {
  const place = usePlace();
  const row = useMemo(() => targetRow(targets, place.params["example"], place.params["s"], place.params["at"]), [targets, place]);
  const measures = Array.isArray(targets.notes["measures"]) ? (targets.notes["measures"] as string[]) : ["logit"];
  const measure = measureNamed(place.params["measure"], measures);
  const source = numberParam(place, "pos");
  const text = {
    run: run.run,
    example: targets.text(row, "example_id"),
    seq: targets.number(row, "seq") ?? 0,
    pos: targets.number(row, "pos") ?? 0,
  };
  const answer = useRows("influence", { ...text });
  const token = source === undefined ? "" : (answer.data?.text(source, "token") ?? "");
  return (
    <div className="stack effects-page grow">
      <InfluencePanel run={run} runs={runs} targets={targets} row={row} text={text} answer={answer} measures={measures} measure={measure} source={source} />
      <CarryingHeadsPanel run={run} text={text} measure={measure} source={source} token={token} />
    </div>
  );
}

/** The explained prediction that the address means: of a text the last, else the first of all. */
function targetRow(targets: Rows, example: string | undefined, seq: string | undefined, at: string | undefined): number {
  const fits = everyRow(targets).filter(
    (row) =>
      targets.text(row, "example_id") === example &&
      (seq === undefined || String(targets.number(row, "seq")) === seq) &&
      (at === undefined || String(targets.number(row, "pos")) === at),
  );
  return (at === undefined && seq !== undefined ? fits.at(-1) : fits[0]) ?? 0;
}
