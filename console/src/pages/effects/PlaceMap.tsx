import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { around0 } from "../../colour/palette";
import { LabelledHeatmap } from "../../components/LabelledHeatmap";
import { Legend } from "../../components/Legend";
import { useSize } from "../../components/useSize";
import { useStore } from "../../env/store";
import { SelectedHere } from "../../selection/SelectedHere";
import { rowsAt, selection } from "../../selection/selection";
import { formatPlace, numberParam } from "../../url/codec";
import { update, usePlace } from "../../url/place";
import type { CauseRun } from "./causeRuns";
import { EffectTip } from "./EffectTip";
import { kindOf } from "./effectPanels";
import { placeGrid, type PlaceGrid } from "./places";

interface Props {
  run: CauseRun;
  rows: Rows;
  kind: string;
  quantity: { column: string; label: string };
  example: string | undefined;
}

/** Effects by layer and position, on a scale that is centred at 0. */
export function PlaceMap({ run, rows, kind, quantity, example }: Props) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const place = usePlace();
  const grid = useMemo(() => placeGrid(rows, quantity.column, (row) => `${rows.text(row, "site")}: ${kindOf(rows, row)}` === kind), [rows, kind, quantity.column]);
  const scale = useMemo(() => around0(grid.values), [grid]);
  const marked = useMarkedPlaces(run.source, example, grid);
  const layer = numberParam(place, "l");
  const pos = numberParam(place, "pos");
  const seq = rows.length > 0 ? (rows.number(0, "seq") ?? 0) : 0;
  const named = grid.names.filter((name, at) => name !== String(grid.positions[at])).length;
  return (
    <>
      <div className="told">
        <Legend scale={scale} label={quantity.label} />
        <span className="muted">
          {kind}
          {grid.strongest ? ", the strongest head of each place" : ""}
        </span>
        {named === grid.names.length ? null : <span className="muted">Positions without a name have other tokens in other prompts: choose a pair to see them.</span>}
        {example ? <a href={formatPlace({ page: "text", parts: [run.source, example, String(seq)], params: pos === undefined ? {} : { pos: String(pos) } })}>the prompt in Text</a> : null}
        <SelectedHere place={{ run_id: run.source, ...(example ? { example_id: example } : {}) }} of={example ? "in this pair" : "in this task"} />
      </div>
      <div ref={box} className="fills">
        <LabelledHeatmap
          values={grid.values}
          rowLabels={grid.layers.map((each) => (each < 0 ? "embed" : String(each)))}
          colLabels={grid.names}
          rowTitle="layer"
          colTitle={named > 0 ? `token of the ${seq === 1 ? "corrupted" : "clean"} prompt, which ran (/ of the ${seq === 1 ? "clean" : "corrupted"} one, where it is another), and position` : "position"}
          scale={scale}
          label={`${quantity.label} by layer and position, ${kind}, run ${run.run}`}
          width={width - 30}
          height={height - 16}
          most={{ width: 64, height: 44 }}
          upwards
          chosen={chosenCell(grid, layer, pos)}
          marked={marked}
          tell={({ row, col }) => <EffectTip rows={rows} row={grid.of[row * grid.positions.length + col] ?? -1} />}
          onChoose={({ row, col }) => update({ l: grid.layers[row] === -1 ? undefined : grid.layers[row], pos: grid.positions[col] })}
        />
      </div>
    </>
  );
}

function chosenCell(grid: PlaceGrid, layer: number | undefined, pos: number | undefined) {
  const row = layer === undefined ? -1 : grid.layers.indexOf(layer);
  const col = pos === undefined ? -1 : grid.positions.indexOf(pos);
  if (row < 0 && col < 0) return undefined;
  return { ...(row < 0 ? {} : { row }), ...(col < 0 ? {} : { col }) };
}

/** The cells whose layer and position the selected rows name. */
function useMarkedPlaces(source: string, example: string | undefined, grid: PlaceGrid) {
  const selected = useStore(selection);
  return useMemo(() => {
    if (!selected?.keys.includes("pos") || !selected.keys.includes("layer")) return [];
    const rows = rowsAt(selected, { run_id: source, ...(example ? { example_id: example } : {}) });
    const cells = new Map(rows.map((row) => [`${selected.rows.number(row, "layer")} ${selected.rows.number(row, "pos")}`, row]));
    return [...cells.values()].flatMap((row) => {
      const at = { row: grid.layers.indexOf(selected.rows.number(row, "layer") ?? -2), col: grid.positions.indexOf(selected.rows.number(row, "pos") ?? -1) };
      return at.row < 0 || at.col < 0 ? [] : [at];
    });
  }, [selected, source, example, grid]);
}
