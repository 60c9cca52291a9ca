import { useRows } from "../../api/useRows";
import { Empty, Problem } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { numberParam } from "../../url/codec";
import { usePlace } from "../../url/place";
import { ContextsPanel } from "./ContextsPanel";
import { DetailPanel } from "./DetailPanel";
import { DictionaryPanel } from "./DictionaryPanel";
import { encodedAs, encodedIn, type Token } from "./encoded";
import { EncodedSelect } from "./EncodedSelect";
import { FeaturePanel } from "./FeaturePanel";
import { FeaturesPanel } from "./FeaturesPanel";

/** The features of a sparse dictionary over a run: which there are, where one is most active, and which are active at a token. */
export function FeaturesPage() {
  const place = usePlace();
  const { sae, order = "tokens", example } = place.params;
  const runs = useRows("features/runs", {});
  const known = runs.data ? encodedIn(runs.data) : [];
  const run = place.parts[0] ?? known[0]?.source;
  const of = run === undefined ? undefined : encodedAs(known, run, sae);
  const why = useRows("features/dictionary", of === undefined && run !== undefined && runs.data ? { run, sae } : null);
  const features = useRows("features", of ? { run: of.run, sae: of.sae, order } : null);
  const feature = numberParam(place, "f") ?? (features.data && features.data.length > 0 ? (features.data.number(0, "feature") ?? undefined) : undefined);
  const contexts = useRows("features/contexts", of && feature !== undefined ? { run: of.run, sae: of.sae, feature } : null);
  const pos = numberParam(place, "pos");
  const token: Token | undefined = example !== undefined && pos !== undefined ? { example, seq: numberParam(place, "s") ?? 0, pos } : undefined;
  if (of === undefined) {
    const error = runs.error ?? why.error;
    return (
      <Panel title="Features" name="features" controls={<EncodedSelect known={known} run={run} of={undefined} />}>
        {error ? <Problem error={error} /> : null}
        {runs.data && run === undefined ? <Empty command="traces features encode RUN --sae FOLDER">No run has been encoded with a sparse dictionary yet.</Empty> : null}
      </Panel>
    );
  }
  return (
    <div className="columns features-page">
      <div className="stack features-side">
        <DictionaryPanel known={known} run={run} of={of} />
        <FeaturesPanel of={of} answer={features} feature={feature} order={order} />
      </div>
      {feature === undefined ? (
        <section className="panel grow">
          <Empty>{features.data ? "No feature is active at any token." : "Choose a feature by its number, or wait until all are counted."}</Empty>
        </section>
      ) : (
        <div className="stack grow">
          <FeaturePanel of={of} answer={contexts} feature={feature} />
          <ContextsPanel of={of} answer={contexts} feature={feature} token={token} />
        </div>
      )}
      <DetailPanel of={of} feature={feature} token={token} />
    </div>
  );
}
