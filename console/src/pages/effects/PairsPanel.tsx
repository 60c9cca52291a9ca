import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update, usePlace } from "../../url/place";
import type { Intervention } from "./intervention";
import { shownPair } from "./shownPair";

/** What one intervention did on each pair. A click shows the pair's prompt below. */
export function PairsPanel({ of }: { of: Intervention }) {
  const place = usePlace();
  const answer = useRows("effects/examples", { run: of.run, intervention: of.intervention, metric: of.metric });
  const rows = answer.data;
  return (
    <Panel
      title={`${of.spec} on each pair`}
      name="pairs"
      className="grow"
      note={rows ? `${inShort(rows.length)} of ${inShort(rows.notes.total ?? rows.length)} shown, the largest effects first` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.find((text) => text.includes("effect_normalised")) }}
    >
      <Show answer={answer}>
        {(found) => (
          <DataTable
            rows={found}
            label="Pairs by size of effect"
            columns={["effect", "effect_normalised", "baseline", "value", "text", "example_id"]}
            chosen={shownPair(place, found)}
            onChoose={(row) => update({ example: found.text(row, "example_id"), s: found.number(row, "seq") ?? 0 })}
          />
        )}
      </Show>
    </Panel>
  );
}
