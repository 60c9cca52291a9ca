import { useRows } from "../../api/useRows";
import { Empty } from "../../components/Empty";
import { numberParam } from "../../url/codec";
import { usePlace } from "../../url/place";
import { DistributionPanel } from "./DistributionPanel";
import { ExamplesPanel } from "./ExamplesPanel";
import { HeadGridPanel } from "./HeadGridPanel";
import { metricNamed } from "./metrics";
import { PatternPanel } from "./PatternPanel";

/** The heads of a run over all of its texts: the mean of each, how one's values are distributed, the texts behind them, the pattern. */
export function HeadsPage() {
  const place = usePlace();
  const runs = useRows("heads/runs", {});
  const run = place.parts[0] ?? (runs.data && runs.data.length > 0 ? runs.data.text(0, "run_id") : undefined);
  const metric = metricNamed(place.params["metric"]);
  const layer = numberParam(place, "l");
  const head = numberParam(place, "h");
  const side = place.params["side"] ?? "";
  const [low, high] = [numberOf(place.params["low"]), numberOf(place.params["high"])];
  const chosen = run !== undefined && layer !== undefined && head !== undefined ? { run, layer, head, side, metric } : null;
  const examples = useRows(
    "heads/examples",
    chosen && { run: chosen.run, layer: chosen.layer, head: chosen.head, metric: metric.name, side, low, high, order: place.params["order"] },
  );
  if (run === undefined) {
    return runs.data ? <Empty command="traces derive heads RUN">It has been derived of no run yet how its heads attend.</Empty> : null;
  }
  return (
    <div className="columns heads-page">
      <HeadGridPanel run={run} side={side} metric={metric} layer={layer} head={head} />
      <div className="stack grow">
        {examples.error?.kind === "empty" ? null : chosen ? (
          <>
            <DistributionPanel of={chosen} answer={examples} low={low} high={high} />
            <div className="columns">
              <ExamplesPanel of={chosen} answer={examples} />
              <PatternPanel of={chosen} answer={examples} />
            </div>
          </>
        ) : (
          <section className="panel grow">
            <Empty>Choose a head: how its values are distributed over the texts, the texts themselves and its pattern are shown here.</Empty>
          </section>
        )}
      </div>
    </div>
  );
}

function numberOf(text: string | undefined): number | undefined {
  const value = text === undefined || text === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
}
