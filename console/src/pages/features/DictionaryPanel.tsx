import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Command } from "../../components/Command";
import { Facts } from "../../components/Facts";
import { inShort, percent } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Encoded } from "./encoded";
import { EncodedSelect } from "./EncodedSelect";

/** What the dictionary is, and how much of the states it gives back. */
export function DictionaryPanel({ known, run, of }: { known: readonly Encoded[]; run: string | undefined; of: Encoded }) {
  const fit = useRows("features/dictionary", { run: of.run, sae: of.sae });
  return (
    <Panel
      title="Dictionary"
      name="dictionary"
      className="features-dictionary"
      rows={() => fit.data}
      ways={{ sql: fit.data?.notes.sql?.at(-1) }}
      controls={<EncodedSelect known={known} run={run} of={of} />}
    >
      <div className="padded">
        <Facts
          of={[
            ["name", of.sae],
            ["reads", `${of.layer === null ? "" : `layer ${of.layer}, `}${of.site}${of.side === "enc" ? ", encoder" : ""}`],
            ...(of.outputSite ? ([["gives back", of.outputSite]] as const) : []),
            ["features", `${inShort(of.features)} of ${inShort(of.width)} values, ${of.architecture}`],
            ...(of.trainedOn ? ([["trained on", of.trainedOn]] as const) : []),
          ]}
        />
        <Show answer={fit}>{(rows) => (rows.length === 0 ? <p className="muted">Its fit was measured on no token.</p> : <Fit rows={rows} of={of} />)}</Show>
      </div>
    </Panel>
  );
}

function Fit({ rows, of }: { rows: Rows; of: Encoded }) {
  const recovered = rows.number(0, "loss_recovered");
  const measured = rows.number(0, "n_predictions") !== null;
  return (
    <>
      <Facts
        of={[
          ["active at a token (L0)", inShort(rows.number(0, "mean_active"))],
          ["explained variance", percentOf(rows.number(0, "explained_variance"))],
          ...(measured
            ? ([
                ["loss recovered", percentOf(recovered)],
                ["loss", `${inShort(rows.number(0, "loss"))} → ${inShort(rows.number(0, "reconstructed_loss"))} nats`],
              ] as const)
            : []),
          ["measured on", `${inShort(rows.number(0, "n_tokens"))} tokens`],
        ]}
      />
      {measured ? null : (
        <p className="muted">
          What the model loses with it has not been measured: <Command text={`traces features evaluate ${of.source} --sae FOLDER`} />
        </p>
      )}
    </>
  );
}

/** A part of 1 that can be below 0: a dictionary can be worse than none. */
function percentOf(part: number | null): string {
  if (part === null) return "not defined";
  return part < 0 ? `−${percent(-part)}` : percent(part);
}
