import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { asText } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { commonOf, numberParam } from "../../url/codec";
import { go, update, usePlace } from "../../url/place";

const PAGE = 200;
const ORDERS = ["place", "loss", "tokens"] as const;
const COLUMNS = ["idx", "example_id", "n_tokens", "loss", "text"];

/** The texts of a run, some hundred at a time; a click opens one. */
export function RunExamples({ run }: { run: string }) {
  const place = usePlace();
  const order = ORDERS.find((name) => name === place.params["order"]) ?? "place";
  const after = numberParam(place, "after") ?? 0;
  const answer = useRows("examples", { run, order, after, limit: PAGE });
  const total = answer.data?.notes.total ?? 0;
  const last = Math.min(after + PAGE, total);
  const kept = commonOf(place);
  return (
    <Panel
      title="Texts"
      name="examples"
      className="grow"
      note={total === 0 ? null : total <= PAGE ? total.toLocaleString("en-US") : `${(after + 1).toLocaleString("en-US")} to ${last.toLocaleString("en-US")} of ${total.toLocaleString("en-US")} shown`}
      rows={() => answer.data}
      ways={{ sql: answer.data?.notes.sql?.at(-1), python: `wh.run(${JSON.stringify(run)}).examples` }}
      controls={
        <>
          <label>
            by{" "}
            <select value={order} onChange={(event) => update({ order: event.target.value, after: undefined }, "replace")}>
              {ORDERS.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
          {total > PAGE ? (
            <>
              <button type="button" disabled={after === 0} aria-label="Texts before" onClick={() => update({ after: Math.max(after - PAGE, 0) || undefined }, "replace")}>
                ‹
              </button>
              <button type="button" disabled={last >= total} aria-label="Texts after" onClick={() => update({ after: after + PAGE }, "replace")}>
                ›
              </button>
            </>
          ) : null}
        </>
      }
    >
      <Show answer={answer}>
        {(rows) => (
          <DataTable
            rows={rows}
            label="Texts"
            columns={COLUMNS}
            onChoose={(row) => go({ page: "text", parts: [run, rows.text(row, "example_id"), "0"], params: kept })}
            render={{ text: (value) => asText(value).replace(/\s+/g, " ") }}
          />
        )}
      </Show>
    </Panel>
  );
}
