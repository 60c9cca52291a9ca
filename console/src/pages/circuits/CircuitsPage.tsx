import { useEffect, useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useGone } from "../../api/useGone";
import { useRows } from "../../api/useRows";
import { Empty } from "../../components/Empty";
import { Missing } from "../../components/Missing";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { go, usePlace } from "../../url/place";
import { lookedAt } from "../../url/remembered";
import { circuitMeant, circuitsOf, selectionNamed, type Circuit } from "./chosenCircuit";
import { CircuitSelect } from "./CircuitSelect";
import { CurvePanel } from "./CurvePanel";
import { curvesOf, firstSize } from "./curves";
import { GraphPanel } from "./GraphPanel";
import { HoldsPanel } from "./HoldsPanel";
import { NodePanel } from "./NodePanel";

/** Which edges of a model carry a task: the circuit by layers, how faithful it is at which size, where it holds. */
export function CircuitsPage() {
  const answer = useRows("circuits", {});
  return <Show answer={answer}>{(rows) => <OfRun rows={rows} />}</Show>;
}

function OfRun({ rows }: { rows: Rows }) {
  const place = usePlace();
  const circuits = useMemo(() => circuitsOf(rows), [rows]);
  const named = place.parts[0];
  const gone = useGone(named);
  const run = named ?? lookedAt();
  const runs = useRows("runs", run === undefined || circuits.some((each) => each.run === run) ? null : {});
  const parent = runs.data ? parentOf(runs.data, run) : undefined;
  const own = circuitMeant(circuits, run, place.params["circuit"], parent);
  const circuit = own ?? (named === undefined && runs.data ? circuits[0] : undefined);
  const found = circuit?.run;
  useEffect(() => {
    if (named === undefined && found !== undefined) go({ ...place, parts: [found] }, "replace");
  }, [named, found, place]);
  if (circuits.length === 0 && !gone) return <Empty command="traces circuit discover TASK">No circuit has been found yet. Of a task's pairs (traces task prepare), this scores every edge of the model:</Empty>;
  if (circuit) return <OfCircuit circuits={circuits} circuit={circuit} />;
  if (!runs.data) return null;
  return (
    <Panel title="Circuits" name="circuits" controls={<CircuitSelect circuit={undefined} circuits={circuits} />}>
      {gone && named !== undefined ? (
        <Missing run={named} />
      ) : (
        <Empty command={`traces circuit discover ${named ?? ""}`}>Run {named} has no circuit, and none was found for it. If it is a task&apos;s run, this finds one:</Empty>
      )}
    </Panel>
  );
}

function OfCircuit({ circuits, circuit }: { circuits: readonly Circuit[]; circuit: Circuit }) {
  const place = usePlace();
  const selection = selectionNamed(place.params["selection"]);
  const curve = useRows("circuit/curve", { run: circuit.run });
  const curves = useMemo(() => (curve.data ? curvesOf(curve.data, circuit.name, selection) : undefined), [curve.data, circuit.name, selection]);
  const asked = Number(place.params["size"]);
  const known = curve.data !== undefined || curve.error !== undefined;
  const size = asked > 0 ? asked : known ? firstSize(curve.data, circuit.name, selection) : undefined;
  const of = size === undefined ? null : { run: circuit.run, circuit: circuit.name, selection, size };
  const answer = useRows("circuit", of);
  return (
    <div className="columns circuits-page">
      <GraphPanel circuits={circuits} circuit={circuit} selection={selection} size={size} answer={answer} />
      <div className="stack grow">
        <CurvePanel circuit={circuit} answer={curve} curves={curves} size={size} shown={answer.data} />
        <HoldsPanel circuit={circuit} size={size !== undefined && curves?.sizes.includes(size) ? size : undefined} evaluated={curve.data !== undefined} />
        {of && place.params["node"] !== undefined ? <NodePanel circuit={circuit} of={of} name={place.params["node"]} shown={answer.data} /> : null}
      </div>
    </div>
  );
}

function parentOf(runs: Rows, run: string | undefined): string | undefined {
  for (let row = 0; row < runs.length; row += 1) {
    if (runs.text(row, "run_id") === run) return Array.from(runs.get(row, "parents") as ArrayLike<string>)[0];
  }
  return undefined;
}
