import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { Empty, Problem } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { RunSelect } from "../../texts/RunSelect";
import { go, usePlace } from "../../url/place";
import { QuestionPanel } from "./QuestionPanel";
import { QuestionsPanel } from "./QuestionsPanel";

/** The multiple-choice questions of a run: #/choices/RUN/EXAMPLE?show=wrong&order=margin */
export function ChoicesPage() {
  const { parts, params } = usePlace();
  const runs = useRows("runs", {});
  const run = parts[0] ?? (runs.data ? firstFitting(runs.data) : undefined);
  const show = params["show"] ?? "all";
  const order = params["order"] ?? "place";
  const answer = useRows("choices", run === undefined ? null : { run, show, order });
  const chooser = <RunSelect run={run} fits={hasChoices} onChoose={(next) => go({ page: "choices", parts: next ? [next] : [], params: {} })} />;
  if (run === undefined || (answer.error && answer.data === undefined)) {
    return (
      <Panel title="Multiple choice" name="questions" controls={chooser}>
        {answer.error ? <Problem error={answer.error} /> : null}
        {run === undefined && runs.data ? (
          <Empty command="traces capture mcq-prompt --model smollm2 --data csqa --run questions">No run has multiple-choice questions yet.</Empty>
        ) : null}
      </Panel>
    );
  }
  const first = answer.data && answer.data.length > 0 ? answer.data.text(0, "example_id") : undefined;
  const example = parts[1] ?? first;
  return (
    <div className="columns choices">
      <QuestionsPanel answer={answer} run={run} example={example} show={show} order={order} chooser={chooser} />
      {example === undefined ? null : <QuestionPanel run={run} example={example} />}
    </div>
  );
}

function firstFitting(rows: Rows): string | undefined {
  const row = Array.from({ length: rows.length }, (_, at) => at).find((at) => hasChoices(rows, at));
  return row === undefined ? undefined : rows.text(row, "run_id");
}

function hasChoices(rows: Rows, row: number): boolean {
  const tables = rows.get(row, "tables");
  return tables !== null && Array.from(tables as ArrayLike<unknown>).includes("choices");
}
