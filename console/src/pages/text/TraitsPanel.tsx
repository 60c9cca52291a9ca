import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { useRows } from "../../api/useRows";
import { Choice } from "../../components/Choice";
import { LineChart, type Line } from "../../components/LineChart";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { choosePos, type Chosen, type Sequence } from "../../texts/where";
import { update, usePlace } from "../../url/place";
import { nameOf, vectorsOf, type Vector } from "./colouring";
import { PanelTabs } from "./PanelTabs";
import { dynamicsOf, firstOf, traitLines, QUANTITIES, type Quantity } from "./traits";

const LEGEND_PX = 26;

/** How the tokens of a response lie along the vectors of traits. */
export function TraitsPanel({ of, chosen }: { of: Sequence; chosen: Chosen }) {
  const place = usePlace();
  const quantity: Quantity = QUANTITIES.map(([name]) => name).find((name) => name === place.params["quantity"]) ?? "projection";
  const answer = useRows("traits", { run: of.run, example: of.example, seq: of.seq });
  const vectors = useMemo(() => (answer.data ? vectorsOf(answer.data) : []), [answer.data]);
  const vector = vectors.find((each) => nameOf(each) === place.params["trait"]) ?? vectors[0];
  return (
    <Panel
      title={<PanelTabs />}
      name="traits"
      className="text-below text-fills"
      note={vectors.length > 0 ? `1 of ${vectors.length} vectors` : null}
      rows={() => answer.data}
      ways={{ sql: answer.data?.notes.sql?.[0], command: `traces trait project ${of.run} --traits NAME` }}
      controls={
        vector ? (
          <>
            <select aria-label="vector" value={nameOf(vector)} onChange={(event) => update({ trait: event.target.value }, "replace")}>
              {vectors.map((each) => (
                <option key={nameOf(each)}>{nameOf(each)}</option>
              ))}
            </select>
            <Choice label="quantity" of={QUANTITIES} chosen={quantity} onChoose={(next) => update({ quantity: next === "projection" ? undefined : next }, "replace")} />
          </>
        ) : null
      }
    >
      <Show answer={answer}>{(rows) => (vector ? <Chart rows={rows} vector={vector} quantity={quantity} chosen={chosen} /> : <p className="padded">Only the dynamics of this run are kept, not its tokens.</p>)}</Show>
    </Panel>
  );
}

function Chart({ rows, vector, quantity, chosen }: { rows: Rows; vector: Vector; quantity: Quantity; chosen: Chosen }) {
  const [box, size] = useSize<HTMLDivElement>();
  const { positions, values } = useMemo(
    () => traitLines(rows, vector, quantity, firstOf(rows.notes["dynamics"], vector)),
    [rows, vector, quantity],
  );
  const lines = useMemo<Line[]>(() => [{ label: `${quantity} on ${nameOf(vector)}`, values, colour: "--line-1" }], [values, vector, quantity]);
  const found = useMemo(() => dynamicsOf(rows.notes["dynamics"], vector), [rows, vector]);
  const choose = useMemo(() => (index: number) => choosePos(positions[index] ?? 0), [positions]);
  return (
    <div className="traits" ref={box}>
      {size.width > 0 ? (
        <LineChart
          x={positions}
          lines={lines}
          xLabel="position of the response's token"
          yLabel={quantity}
          width={size.width}
          height={Math.max(size.height - LEGEND_PX, 120)}
          mark={chosen.pos}
          marks={found}
          onChoose={choose}
        />
      ) : null}
    </div>
  );
}
