import { useRows } from "../../api/useRows";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import type { Chosen, Sequence } from "../../texts/where";
import { update, usePlace } from "../../url/place";
import { NearestList } from "./NearestList";
import { PanelTabs } from "./PanelTabs";

const COUNTS = [10, 20, 50, 100, 200];
const SITE = "resid.post_mlp";

interface Table {
  name: string;
  site: string;
  layer: number | null;
  heads: number | null;
  rows: number;
}

/** The tokens of all runs whose vectors are nearest to the chosen token's. */
export function NearestPanel({ of, chosen }: { of: Sequence; chosen: Chosen }) {
  const place = usePlace();
  const wanted = place.params["table"];
  const k = COUNTS.find((count) => String(count) === place.params["k"]) ?? 20;
  const [site = SITE, layer] = wanted === undefined ? [] : wanted.split(":");
  const answer = useRows(
    "nearest",
    chosen.pos === undefined ? null : { run: of.run, example: of.example, seq: of.seq, pos: chosen.pos, site, layer, k, head: site.includes("qkv") ? (chosen.head ?? 0) : undefined },
  );
  const tables = (answer.data?.notes["tables"] ?? []) as Table[];
  const used = answer.data?.notes["table"] as string[] | undefined;
  const shown = tables.find((table) => used?.includes(table.name));
  return (
    <Panel
      title={<PanelTabs />}
      name="nearest"
      className="text-below text-fills"
      note={shown ? `${answer.data?.length ?? 0} of ${shown.rows.toLocaleString("en-US")} vectors, by cosine distance` : null}
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.at(-1),
        command: `traces nearest ${of.run} --example ${of.example} --seq ${of.seq} --pos ${chosen.pos ?? 0} --site ${site}${layer === undefined ? "" : ` --layers ${layer}`} -k ${k}`,
      }}
      controls={
        <>
          {tables.length > 0 ? (
            <label className="field">
              <span className="muted">vectors</span>
              <select value={shown ? nameOf(shown) : ""} onChange={(event) => update({ table: event.target.value }, "replace")}>
                {tables.map((table) => (
                  <option key={table.name} value={nameOf(table)}>
                    {table.site}
                    {table.layer === null ? "" : `, layer ${table.layer}`}
                  </option>
                ))}
              </select>
            </label>
          ) : null}
          <label className="field">
            <span className="muted">how many</span>
            <select value={k} onChange={(event) => update({ k: event.target.value }, "replace")}>
              {COUNTS.map((count) => (
                <option key={count}>{count}</option>
              ))}
            </select>
          </label>
        </>
      }
    >
      {chosen.pos === undefined ? <Empty>Choose a token: those nearest to it come here.</Empty> : <Show answer={answer}>{(rows) => <NearestList rows={rows} run={of.run} />}</Show>}
    </Panel>
  );
}

function nameOf(table: Table): string {
  return `${table.site}${table.layer === null ? "" : `:${table.layer}`}`;
}
