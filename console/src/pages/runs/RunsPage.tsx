import { getRows } from "../../api/client";
import { useAnswer } from "../../api/useAnswer";
import { DataTable } from "../../components/DataTable";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { go, usePlace } from "../../url/place";

const COLUMNS = ["run_id", "kind", "model", "dataset", "n_examples", "n_tokens", "perplexity", "bytes", "created_at"];

export function RunsPage() {
  const place = usePlace();
  const answer = useAnswer("runs", (signal) => getRows("runs", {}, signal));
  return (
    <Panel
      title="Runs"
      name="runs"
      main
      note={answer.data ? `${answer.data.length}` : null}
      rows={() => answer.data}
      ways={{ sql: "SELECT * FROM runs ORDER BY created_at DESC", python: 'wh.sql("FROM runs ORDER BY created_at DESC").df()', command: "traces runs" }}
    >
      <Show answer={answer}>
        {(rows) =>
          rows.length === 0 ? (
            <Empty command="traces capture next-token --model smollm2 --text my.txt --capture hidden,resid,qkv,heads --run first">No runs yet.</Empty>
          ) : (
            <DataTable
              rows={rows}
              label="Runs"
              columns={COLUMNS}
              chosen={Array.from({ length: rows.length }, (_, row) => row).find((row) => rows.get(row, "run_id") === place.parts[0])}
              onChoose={(row) => go({ page: "runs", parts: [rows.text(row, "run_id")], params: {} })}
            />
          )
        }
      </Show>
    </Panel>
  );
}
