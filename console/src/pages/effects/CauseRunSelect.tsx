import { currentPlace, go } from "../../url/place";
import { inWords, type CauseRun } from "./causeRuns";

/** Chooses among the runs that tell of causes, by their task. */
export function CauseRunSelect({ run, runs }: { run: CauseRun | undefined; runs: readonly CauseRun[] }) {
  const sources = [...new Set(runs.map((each) => each.source))];
  return (
    <label className="field">
      <span className="muted">run</span>
      <select className="wide" value={run?.run ?? ""} onChange={(event) => go({ page: "effects", parts: [event.target.value], params: kept(runs.find((each) => each.run === event.target.value)?.view === "influence") })}>
        {run ? null : <option value="">choose …</option>}
        {sources.map((source) => (
          <optgroup key={source} label={nameOf(source, runs)}>
            {runs
              .filter((each) => each.source === source)
              .map((each) => (
                <option key={each.run} value={each.run}>
                  {each.run} ({inWords(each)})
                </option>
              ))}
          </optgroup>
        ))}
      </select>
    </label>
  );
}

function nameOf(source: string, runs: readonly CauseRun[]): string {
  const task = runs.find((each) => each.source === source)?.task;
  return task ? `${task} (${source})` : source;
}

/** What stays chosen from one run to the next; of influence the strongest heads are looked at first. */
function kept(influence: boolean): Record<string, string> {
  const { params } = currentPlace();
  return Object.fromEntries(["q", "v", ...(influence ? [] : ["l", "h", "norm"])].flatMap((name) => (params[name] === undefined ? [] : [[name, params[name]]])));
}
