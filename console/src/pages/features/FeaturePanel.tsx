import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Bars, type Distribution } from "../../components/Bars";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Encoded } from "./encoded";

interface Summary {
  n_tokens: number;
  n_sequences: number;
  mean_activation: number;
  max_activation: number;
}

/** A feature over all texts: how often it is active, and how much. */
export function FeaturePanel({ of, answer, feature }: { of: Encoded; answer: Answer<Rows>; feature: number }) {
  const summary = answer.data?.notes["summary"] as Summary | undefined;
  const told = answer.data?.notes["distribution"] as Distribution | undefined;
  return (
    <Panel
      title={`Feature ${feature}`}
      name="feature"
      className="features-summary"
      note={
        summary && summary.n_tokens > 0
          ? `active at ${inShort(summary.n_tokens)} ${summary.n_tokens === 1 ? "token" : "tokens"} of ${inShort(summary.n_sequences)} ` +
            `${summary.n_sequences === 1 ? "sequence" : "sequences"}, mean ${inShort(summary.mean_activation)}, at most ${inShort(summary.max_activation)}`
          : null
      }
      ways={{
        sql: `SELECT activation FROM feature_tokens WHERE run_id = '${of.run}' AND sae = '${of.sae}' AND feature = ${feature}`,
        command: `traces features show ${of.run} ${feature} --sae ${of.sae}`,
      }}
    >
      <Show answer={answer}>
        {() =>
          told && told.counts.length > 0 ? (
            <Bars told={told} label={`activation of feature ${feature}`} unit="activation" things="tokens" />
          ) : (
            <p className="padded muted">This feature is active at no token of the run.</p>
          )
        }
      </Show>
    </Panel>
  );
}
