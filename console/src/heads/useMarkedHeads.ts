import { useMemo } from "react";
import type { Cell } from "../components/Heatmap";
import { useStore } from "../env/store";
import { rowsAt, selection, type Key } from "../selection/selection";

/** The heads that the selected rows name, as cells of layer × head. Rows without a head mark nothing. */
export function useMarkedHeads(of: Key): readonly Cell[] {
  const selected = useStore(selection);
  const { run_id: run, example_id: example } = of;
  return useMemo(() => {
    if (!selected?.keys.includes("layer") || !selected.keys.includes("head")) return [];
    const place: Key = { ...(run === undefined ? {} : { run_id: run }), ...(example === undefined ? {} : { example_id: example }) };
    const cells = new Map<string, Cell>();
    for (const row of rowsAt(selected, place)) {
      const layer = selected.rows.number(row, "layer");
      const head = selected.rows.number(row, "head");
      if (layer !== null && head !== null) cells.set(`${layer} ${head}`, { row: layer, col: head });
    }
    return [...cells.values()];
  }, [selected, run, example]);
}
