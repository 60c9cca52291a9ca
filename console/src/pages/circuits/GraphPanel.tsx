import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { Choice } from "../../components/Choice";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { SelectedHere } from "../../selection/SelectedHere";
import { update } from "../../url/place";
import { SELECTIONS, type Circuit, type Selection } from "./chosenCircuit";
import { CircuitGraph } from "./CircuitGraph";
import { CircuitSelect } from "./CircuitSelect";
import { GraphLegend } from "./GraphLegend";

interface Props {
  circuits: readonly Circuit[];
  circuit: Circuit;
  selection: Selection;
  size: number | undefined;
  answer: Answer<Rows>;
}

/** The circuit by layers. What is too much for a picture is left out, and said. */
export function GraphPanel({ circuits, circuit, selection, size, answer }: Props) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const rows = answer.data;
  const total = rows?.notes.total ?? 0;
  return (
    <Panel
      title={`Circuit${circuit.task ? `: ${circuit.task}` : ""}`}
      name="circuit"
      main
      className="circuit-graph filled"
      rows={() => rows}
      ways={{
        sql: rows?.notes.sql?.[0],
        python: `from warehouse.analysis.circuit_graph import circuit_graph\ncircuit_graph(wh, "${circuit.run}/${circuit.name}", size=${size ?? 0.01}, selection="${selection}")`,
        command: `traces plot circuit ${circuit.run}/${circuit.name} --selection ${selection}`,
      }}
      controls={
        <>
          <CircuitSelect circuit={circuit} circuits={circuits} />
          <Choice label="selection" of={SELECTIONS} chosen={selection} onChoose={(name) => update({ selection: name === "abs" ? undefined : name })} />
        </>
      }
    >
      <div className="told">
        {rows ? (
          <span>
            {inShort(total)} of {inShort(circuit.edges)} edges
            {rows.length < total ? (
              <span className="muted">
                ; {inShort(rows.length)} of {inShort(total)} shown: {rows.notes.rule}
              </span>
            ) : null}
          </span>
        ) : null}
        <GraphLegend metric={circuit.metric} />
        <SelectedHere place={{ run_id: circuit.source }} of="in the task's run" />
      </div>
      <div ref={box} className="fills graph">
        <Show answer={answer}>{(found) => (width > 0 ? <CircuitGraph rows={found} circuit={circuit} width={width - 30} height={height - 24} /> : null)}</Show>
      </div>
    </Panel>
  );
}
