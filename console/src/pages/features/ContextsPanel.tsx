import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { upTo } from "../../colour/palette";
import { Legend } from "../../components/Legend";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { SelectedHere } from "../../selection/SelectedHere";
import { ContextLine } from "./ContextLine";
import type { Encoded, Token } from "./encoded";

interface Props {
  of: Encoded;
  answer: Answer<Rows>;
  feature: number;
  token: Token | undefined;
}

/** The sequences in which a feature is most active, each once, around its strongest token. */
export function ContextsPanel({ of, answer, feature, token }: Props) {
  const rows = answer.data;
  const scale = upTo("mass", rows && rows.length > 0 ? (rows.number(0, "activation") ?? 1) : 1);
  return (
    <Panel
      title="Where it is most active"
      name="contexts"
      main
      className="grow"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} sequences shown` : null}
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.at(-1),
        python:
          "from warehouse.analysis.feature_contexts import find_encoded, find_feature, top_contexts\n" +
          "from warehouse.catalog.ask import asker\n" +
          `encoded = find_encoded(asker(wh), "${of.run}", "${of.sae}")\n` +
          `top_contexts(wh.cached_run, find_feature(wh.cached_run, encoded, ${feature}))`,
        command: `traces features show ${of.run} ${feature} --sae ${of.sae}`,
      }}
    >
      <div className="told">
        <Legend scale={scale} label="activation" />
        <span className="muted">the strongest token is underlined; a click selects a token</span>
        <SelectedHere place={{ run_id: of.source }} of="in this run" />
      </div>
      <Show answer={answer}>
        {(found) => (
          <ol className="feature-contexts" aria-label={`Sequences in which feature ${feature} is most active`}>
            {Array.from({ length: found.length }, (_, row) => (
              <ContextLine key={row} of={of} rows={found} row={row} scale={scale} token={token} />
            ))}
          </ol>
        )}
      </Show>
    </Panel>
  );
}
