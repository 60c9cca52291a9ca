import { useMemo } from "react";
import type { Rows } from "../api/rows";
import { Choice } from "../components/Choice";
import { Legend } from "../components/Legend";
import { lensOf, MEANINGS, METRICS, type Metric } from "../pages/text/lens";
import { LensMap } from "../pages/text/LensMap";
import type { Chosen } from "../texts/where";
import { update, usePlace } from "../url/place";
import { rowsOf, type Example } from "./data";
import { Section } from "./Section";

const LAYER_PX = 16;

/** What each layer would have said after each token. */
export function LensSection({ lens, strip, chosen }: { lens: NonNullable<Example["lens"]>; strip: Rows; chosen: Chosen }) {
  const { params } = usePlace();
  const metric: Metric = METRICS.map(([name]) => name).find((name) => name === params["lens"]) ?? "prob";
  const near = params["near"] !== "0";
  const rows = useMemo(() => rowsOf(lens.columns), [lens]);
  const matrix = useMemo(() => lensOf(rows), [rows]);
  const meaning = MEANINGS[metric];
  return (
    <Section
      title="Lens"
      note={lens.run}
      controls={
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
      }
    >
      <div className="export-lens" style={{ height: matrix.layers.length * LAYER_PX + 40 }}>
        <LensMap rows={rows} lens={matrix} metric={metric} near={near} strip={strip} chosen={chosen} />
      </div>
    </Section>
  );
}
