import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Choice } from "../../components/Choice";
import { DataTable } from "../../components/DataTable";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update, usePlace } from "../../url/place";
import type { ChosenHead } from "./chosenHead";
import { shownExample } from "./shownExample";

/** The texts behind a head's mean, by their values. A click shows the pattern on one. */
export function ExamplesPanel({ of, answer }: { of: ChosenHead; answer: Answer<Rows> }) {
  const place = usePlace();
  const order = place.params["order"] === "low" ? "low" : "high";
  const rows = answer.data;
  return (
    <Panel
      title="Texts"
      name="examples"
      className="grow"
      note={rows ? `${rows.length.toLocaleString("en-US")} of ${(rows.notes.total ?? rows.length).toLocaleString("en-US")} shown` : null}
      rows={() => rows}
      ways={{ sql: rows?.notes.sql?.at(-1) }}
      controls={
        <Choice
          label="order"
          of={[
            ["high", "largest"],
            ["low", "smallest"],
          ]}
          chosen={order}
          onChoose={(value) => update({ order: value === "low" ? "low" : undefined }, "replace")}
        />
      }
    >
      <Show answer={answer}>
        {(found) => (
          <DataTable
            rows={found}
            label={`Texts by ${of.metric.title}`}
            columns={["value", "text", "seq", "example_id"]}
            chosen={shownExample(place, found)}
            onChoose={(row) => update({ example: found.text(row, "example_id"), s: found.number(row, "seq") ?? 0 })}
          />
        )}
      </Show>
    </Panel>
  );
}
