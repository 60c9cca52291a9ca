import { useEffect } from "react";
import { useRows } from "../../api/useRows";
import { Empty, Problem } from "../../components/Empty";
import { Panel } from "../../components/Panel";
import { useKey } from "../../keys/keys";
import { ExampleList } from "../../texts/ExampleList";
import { RunSelect } from "../../texts/RunSelect";
import { useFirstText } from "../../texts/useFirstText";
import { useModel } from "../../texts/useModel";
import { choosePos, chosenOf, goToText, sequenceOf, type Chosen, type Sequence } from "../../texts/where";
import { go, update, usePlace } from "../../url/place";
import { LensPanel } from "./LensPanel";
import { NearestPanel } from "./NearestPanel";
import { panelName, PanelTabs } from "./PanelTabs";
import { StripPanel } from "./StripPanel";
import { TokenPanel } from "./TokenPanel";
import { TraitsPanel } from "./TraitsPanel";
import { pointed } from "./pointed";

/** One text: its tokens, what was predicted at each, what layers would have said, what is like it elsewhere. */
export function TextPage() {
  const place = usePlace();
  const run = place.parts[0];
  const of = sequenceOf(place);
  useFirstText(place);
  return (
    <div className="columns text-page">
      <Panel title="Texts" name="texts" className="text-side text-fills" controls={<RunSelect run={run} onChoose={(next) => goToText(next)} />}>
        {run === undefined ? <Empty>Choose a run.</Empty> : <ExampleList run={run} example={of?.example} />}
      </Panel>
      {of === null ? <div className="stack grow" /> : <OneText of={of} chosen={chosenOf(place)} panel={panelName(place.params["panel"])} />}
    </div>
  );
}

function OneText({ of, chosen, panel }: { of: Sequence; chosen: Chosen; panel: ReturnType<typeof panelName> }) {
  const place = usePlace();
  const answer = useRows("strip", { run: of.run, example: of.example, seq: of.seq, side: of.side });
  const layers = useModel(of.run)?.layers ?? 1;
  const last = (answer.data?.length ?? 1) - 1;
  const step = (by: number) => choosePos(Math.min(Math.max((chosen.pos ?? -by) + by, 0), last), "replace");
  useKey("ArrowRight", "the next token", () => step(1));
  useKey("ArrowLeft", "the token before", () => step(-1));
  useKey("ArrowUp", "a layer up", () => update({ l: Math.min((chosen.layer ?? -1) + 1, layers - 1) }, "replace"));
  useKey("ArrowDown", "a layer down", () => update({ l: Math.max((chosen.layer ?? 1) - 1, 0) }, "replace"));
  useKey("n", "tokens nearest to the chosen one", () => update({ panel: panel === "nearest" ? undefined : "nearest" }));
  useKey("d", "compare with another run, token by token", () => {
    const vs = place.params["vs"];
    if (vs) go({ page: "diff", parts: [of.run, vs, of.example, String(of.seq)], params: {} });
    else update({ color: "diff" });
  });
  useEffect(() => () => pointed.set(null), []);
  if (answer.error) return <Problem error={answer.error} />;
  const rows = answer.data;
  if (!rows) return <Frames />;
  return (
    <div className="columns grow">
      <div className="stack grow">
        <StripPanel of={of} rows={rows} chosen={chosen.pos} />
        {panel === "lens" ? <LensPanel of={of} strip={rows} chosen={chosen} /> : null}
        {panel === "nearest" ? <NearestPanel of={of} chosen={chosen} /> : null}
        {panel === "traits" ? <TraitsPanel of={of} chosen={chosen} /> : null}
      </div>
      <TokenPanel of={of} rows={rows} pos={chosen.pos} />
    </div>
  );
}

/** The panels before the text is there, so that nothing jumps when it comes. */
function Frames() {
  return (
    <div className="columns grow">
      <div className="stack grow">
        <Panel title="Text" name="text" className="text-panel">
          {null}
        </Panel>
        <Panel title={<PanelTabs />} name="below" className="text-below">
          {null}
        </Panel>
      </div>
      <Panel title="Token" name="token" className="text-side">
        {null}
      </Panel>
    </div>
  );
}
