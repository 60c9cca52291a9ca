import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { hideTip, showTip } from "../../components/tip";
import { useSize } from "../../components/useSize";
import { update } from "../../url/place";
import type { ChosenHead } from "./chosenHead";

interface Distribution {
  edges: number[];
  counts: number[];
  n: number;
  missing: number;
  mean: number | null;
  min: number | null;
  max: number | null;
}

interface Props {
  of: ChosenHead;
  answer: Answer<Rows>;
  low: number | undefined;
  high: number | undefined;
}

const HEIGHT = 96;

/** How the values of a head are distributed over the sequences of a run. A click on a bar keeps the texts in it. */
export function DistributionPanel({ of, answer, low, high }: Props) {
  const told = answer.data?.notes["distribution"] as Distribution | undefined;
  const narrowed = low !== undefined || high !== undefined;
  return (
    <Panel
      title={`L${of.layer}H${of.head}, ${of.metric.title}`}
      name="distribution"
      className="head-distribution"
      rows={() => answer.data}
      ways={{ sql: answer.data?.notes.sql?.find((text) => text.includes("AS value")) }}
      note={
        told && told.n > 0
          ? `${told.n.toLocaleString("en-US")} sequences, mean ${inShort(told.mean)}, from ${inShort(told.min)} to ${inShort(told.max)} ${of.metric.unit}` +
            (told.missing > 0 ? `; ${told.missing.toLocaleString("en-US")} have no value` : "")
          : null
      }
      controls={
        narrowed ? (
          <span className="chip">
            {inShort(low)} to {inShort(high) || "the largest"}
            <button type="button" className="quiet" aria-label="All sequences" onClick={() => update({ low: undefined, high: undefined })}>
              ✕
            </button>
          </span>
        ) : null
      }
    >
      <Show answer={answer}>{() => (told && told.counts.length > 0 ? <Bars told={told} of={of} low={low} /> : <p className="padded muted">No sequence has a value.</p>)}</Show>
    </Panel>
  );
}

function Bars({ told, of, low }: { told: Distribution; of: ChosenHead; low: number | undefined }) {
  const [box, { width }] = useSize<HTMLDivElement>();
  const most = Math.max(...told.counts);
  const bar = width / told.counts.length;
  return (
    <div ref={box} className="bars padded">
      <svg width={width} height={HEIGHT + 16} role="img" aria-label={`${of.metric.title} of L${of.layer}H${of.head} in ${told.counts.length} bins; the largest has ${most} sequences`}>
        {told.counts.map((count, place) => {
          const height = count === 0 ? 0 : Math.max(1, (count / most) * HEIGHT);
          const [from, to] = [told.edges[place] ?? 0, told.edges[place + 1] ?? 0];
          const last = place === told.counts.length - 1;
          return (
            <g
              key={place}
              onPointerMove={(event) => showTip(event, `${inShort(from)} to ${inShort(to)}: ${count.toLocaleString("en-US")} of ${told.n.toLocaleString("en-US")} sequences`)}
              onPointerLeave={hideTip}
              onClick={() => update({ low: from, high: last ? undefined : to })}
            >
              <rect className="hit" x={place * bar} width={bar} y={0} height={HEIGHT} />
              <rect x={place * bar + 0.5} width={Math.max(bar - 1, 0.5)} y={HEIGHT - height} height={height} className={low === from ? "bar kept" : "bar"} data-count={count} />
            </g>
          );
        })}
        <line x1={0} x2={width} y1={HEIGHT} y2={HEIGHT} className="axis" />
        <text x={0} y={HEIGHT + 13}>
          {inShort(told.edges[0])}
        </text>
        <text x={width} y={HEIGHT + 13} textAnchor="end">
          {inShort(told.edges.at(-1))} {of.metric.unit}
        </text>
      </svg>
    </div>
  );
}
