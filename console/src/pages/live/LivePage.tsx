import { useEffect, useRef, type ReactNode } from "react";
import { useJson } from "../../api/useRows";
import { Empty, Problem } from "../../components/Empty";
import { useStore } from "../../env/store";
import { go, usePlace } from "../../url/place";
import { CutPanel } from "./CutPanel";
import { followLive, live, type LiveState, type Off } from "./live";
import { ModelLine } from "./ModelLine";
import { PromptPanel } from "./PromptPanel";
import { ResponsePanel } from "./ResponsePanel";
import { ResultPanels } from "./ResultPanels";
import { SteerPanel } from "./SteerPanel";

/** A prompt for the model that is loaded, what is changed in it, and the runs that come of both: #/live/RUN/EXAMPLE?vs=RUN */
export function LivePage() {
  const first = useJson<LiveState | Off>("live/state", {});
  if (first.error)
    return (
      <Nothing>
        <Problem error={first.error} />
      </Nothing>
    );
  if (!first.data) return null;
  if (first.data.status !== "off") return <Page first={first.data} />;
  return (
    <Nothing>
      <Empty command={first.data.hint}>No model is loaded: start the console with one, and a prompt that is typed here becomes a run.</Empty>
    </Nothing>
  );
}

function Nothing({ children }: { children: ReactNode }) {
  return (
    <section className="panel grow" aria-label="live">
      {children}
    </section>
  );
}

function Page({ first }: { first: LiveState }) {
  const place = usePlace();
  const state = useStore(live) ?? first;
  const seen = useRef(state.job?.status === "working" ? -1 : (state.job?.job ?? -1));
  useEffect(followLive, []);
  useEffect(() => {
    const job = state.job;
    if (job?.status !== "done" || !job.shows || job.job === seen.current) return;
    seen.current = job.job;
    const { run, examples, clean } = job.shows;
    go({ page: "live", parts: [run, ...examples.slice(0, 1)], params: clean === undefined ? {} : { vs: clean } });
  }, [state.job]);
  const [run, example] = place.parts;
  const vs = place.params["vs"];
  const busy = state.job?.status === "working";
  const drawn = busy ? state.job?.progress?.text : undefined;
  return (
    <>
      <ModelLine state={state} />
      <div className="columns">
        <div className="stack live-forms">
          <PromptPanel about={state.about} model={state.model} busy={busy} />
          <CutPanel about={state.about} model={state.model} busy={busy} run={vs ?? run} example={example} />
          <SteerPanel busy={busy} />
        </div>
        <div className="stack grow live-results">
          {drawn ? <ResponsePanel text={drawn} /> : <ResultPanels run={run} example={example} vs={vs} />}
        </div>
      </div>
    </>
  );
}
