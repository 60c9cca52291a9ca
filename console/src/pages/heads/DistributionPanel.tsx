import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Bars, type Distribution } from "../../components/Bars";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update } from "../../url/place";
import type { ChosenHead } from "./chosenHead";

interface Props {
  of: ChosenHead;
  answer: Answer<Rows>;
  low: number | undefined;
  high: number | undefined;
}

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
      <Show answer={answer}>
        {() =>
          told && told.counts.length > 0 ? (
            <Bars
              told={told}
              label={`${of.metric.title} of L${of.layer}H${of.head}`}
              unit={of.metric.unit}
              things="sequences"
              low={low}
              onChoose={(from, to) => update({ low: from, high: to })}
            />
          ) : (
            <p className="padded muted">No sequence has a value.</p>
          )
        }
      </Show>
    </Panel>
  );
}
