import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { LineChart } from "../../components/LineChart";
import { inShort } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { update } from "../../url/place";
import type { Circuit } from "./chosenCircuit";
import type { Curves } from "./curves";
import { SizeSlider } from "./SizeSlider";

interface Props {
  circuit: Circuit;
  answer: Answer<Rows>;
  curves: Curves | undefined;
  size: number | undefined;
  /** The edges of the picture, with how many there are. */
  shown: Rows | undefined;
}

const HEIGHT = 170;

/** What the circuit keeps of the task by its size, and the size that is shown. */
export function CurvePanel({ circuit, answer, curves, size, shown }: Props) {
  return (
    <Panel
      title="Size and faithfulness"
      name="curve"
      className="circuit-curve"
      note={curves && curves.left > 0 ? `${curves.lines.length} of ${curves.lines.length + curves.left} lines shown, its own task first` : null}
      rows={() => answer.data}
      ways={{
        sql: answer.data?.notes.sql?.at(-1),
        python: `wh.sql("FROM circuit_curve WHERE circuit_run_id = '${circuit.run}' AND part = 'all' ORDER BY source_run_id, size").df()`,
        command: `traces plot curve ${circuit.run}`,
      }}
    >
      <SizeSlider size={size ?? 0.01} edges={circuit.edges} sizes={curves?.sizes ?? []} asked={asNumber(shown?.notes["n_asked"])} left={shown?.notes.total} />
      <Show answer={answer}>{() => (curves ? <Chart curves={curves} size={shareOf(size, circuit.edges)} level={circuit.level} /> : null)}</Show>
    </Panel>
  );
}

function Chart({ curves, size, level }: { curves: Curves; size: number | undefined; level: string }) {
  const [box, { width }] = useSize<HTMLDivElement>();
  return (
    <div ref={box} className="padded">
      {width > 0 ? (
        <LineChart
          x={curves.x}
          lines={curves.lines}
          xLabel={`share of all ${level}s`}
          yLabel="faithfulness"
          width={width - 20}
          height={HEIGHT}
          logarithmic
          mark={size}
          onChoose={(index) => update({ size: curves.x[index] })}
        />
      ) : null}
      <p className="muted">1: the model as it is; 0: every edge ablated. Bands: 95 % intervals over held-out pairs. Click a point to see the circuit of that size. {told(curves, size)}</p>
    </div>
  );
}

function told(curves: Curves, size: number | undefined): string {
  const at = size === undefined ? -1 : curves.x.indexOf(size);
  const line = curves.lines[0];
  const value = line?.values[at];
  if (!line || value === null || value === undefined || !curves.sizes.includes(size ?? 0)) return "";
  const [low, high] = [line.band?.low[at], line.band?.high[at]];
  return `Here ${inShort(value)}${low === null || low === undefined ? "" : ` (${inShort(low)} to ${inShort(high)})`}.`;
}

/** A size above 1 is a number of edges. */
function shareOf(size: number | undefined, edges: number): number | undefined {
  return size === undefined || size <= 1 ? size : size / Math.max(1, edges);
}

function asNumber(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}
