import { useGone } from "../../api/useGone";
import { useRows } from "../../api/useRows";
import { Panel } from "../../components/Panel";
import { Empty } from "../../components/Empty";
import { Missing } from "../../components/Missing";
import { usePlace } from "../../url/place";
import { RunDetail } from "./RunDetail";
import { RunList } from "./RunList";

/** The runs of the warehouse; of the chosen one what it is, what it was made of, and its texts. */
export function RunsPage() {
  const place = usePlace();
  const [run] = place.parts;
  const answer = useRows("runs", {});
  const runs = answer.data;
  const gone = useGone(run);
  const there = !gone && runs !== undefined && run !== undefined && Array.from({ length: runs.length }, (_, row) => runs.text(row, "run_id")).includes(run);
  return (
    <div className="columns runs-page">
      <RunList answer={answer} run={run} />
      {run === undefined || runs === undefined ? null : there ? (
        <RunDetail key={run} run={run} runs={runs} />
      ) : (
        <Panel title="Run" name="run" className="grow">
          {gone || answer.current ? <Missing run={run} /> : <Empty>…</Empty>}
        </Panel>
      )}
    </div>
  );
}
