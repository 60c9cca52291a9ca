import { useRows } from "../../api/useRows";
import { DataTable } from "../../components/DataTable";
import { Empty } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { go } from "../../url/place";
import { RunPair } from "./RunPair";

const COMMAND = "traces capture next-token --model MODEL --text FILE --run NAME";

/** The runs that one can be compared with: those whose models read some of the same texts. */
export function PartnersPanel({ a }: { a: string | undefined }) {
  const answer = useRows("diff/partners", a === undefined ? null : { run: a });
  return (
    <Panel
      title="Difference of two runs"
      name="runs to compare with"
      main
      note={answer.data ? `${answer.data.length.toLocaleString("en-US")} that read some of the same texts` : null}
      rows={() => answer.data}
      ways={{ sql: answer.data?.notes.sql?.at(-1) }}
      controls={<RunPair a={a} b={undefined} />}
    >
      {a === undefined ? (
        <Empty command={COMMAND}>
          Choose two runs whose models read the same texts. Where they differ most comes first, by example and by token; models with other tokenizers are compared
          by the spans of characters that both share.
        </Empty>
      ) : (
        <Show answer={answer}>
          {(rows) =>
            rows.length === 0 ? (
              <Empty command={COMMAND}>No other run has predictions of the texts that {a} read.</Empty>
            ) : (
              <DataTable rows={rows} label={`Runs to compare ${a} with`} onChoose={(row) => go({ page: "diff", parts: [a, rows.text(row, "run_id")], params: {} })} />
            )
          }
        </Show>
      )}
    </Panel>
  );
}
