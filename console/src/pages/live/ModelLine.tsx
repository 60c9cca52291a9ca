import { formatPlace, type Place } from "../../url/codec";
import { cancel, type JobState, type LiveState } from "./live";

/** The model, what it is at, and what came of the last job. */
export function ModelLine({ state }: { state: LiveState }) {
  const { about, job } = state;
  return (
    <section className="panel live-model" aria-label="model">
      <p>
        <b>{state.model}</b>
        {about ? (
          <span className="muted">
            {about.layers} layers, {about.heads === null ? "" : `${about.heads} heads, `}
            {about.dtype}
            {about.window === null ? "" : `, ${about.window.toLocaleString("en-US")} tokens`}
          </span>
        ) : null}
        <span role="status" className={`live-status ${state.status}`}>
          {statusOf(state)}
        </span>
        {job?.status === "working" ? (
          <button type="button" onClick={() => void cancel()}>
            Cancel
          </button>
        ) : null}
        {job && job.status !== "working" ? (
          <span className="live-runs">
            {job.runs.map(({ run, what }) => (
              <span key={run}>
                <a href={formatPlace(placeOf(run, job))}>{run}</a> <span className="muted">{what}</span>
              </span>
            ))}
          </span>
        ) : null}
      </p>
      {state.error ?? job?.error ? (
        <p role="alert" className="bad">
          {job?.error ?? state.error}
        </p>
      ) : null}
    </section>
  );
}

/** Where a run of a job is seen: on this page what the job shows, among the runs what was derived from it. */
function placeOf(run: string, { shows }: JobState): Place {
  if (run !== shows?.run) return { page: "runs", parts: [run], params: {} };
  return { page: "live", parts: [run, ...shows.examples.slice(0, 1)], params: shows.clean === undefined ? {} : { vs: shows.clean } };
}

function statusOf({ status, job }: LiveState): string {
  if (status === "loading") return "is being loaded …";
  if (status === "stopped") return "is not loaded; the next job loads it";
  if (job?.status === "cancelled") return "ready; the last job was given up";
  if (job?.status !== "working") return "ready";
  const { progress } = job;
  if (!progress) return "reading …";
  return progress.total > 1 ? `${progress.what}: ${progress.done} of at most ${progress.total} tokens` : `${progress.what} …`;
}
