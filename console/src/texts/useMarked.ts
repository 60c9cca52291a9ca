import { useMemo } from "react";
import { useStore } from "../env/store";
import { rowsAt, selection, type Key } from "../selection/selection";
import type { Sequence } from "./where";

export function keyOfSequence(of: Sequence): Key {
  return { run_id: of.run, example_id: of.example, seq: of.seq, ...(of.side ? { side: of.side } : {}) };
}

/** The positions of a sequence that the selected rows name. Rows that name no position mark no token. */
export function useMarked(of: Sequence): ReadonlySet<number> {
  const selected = useStore(selection);
  const { run, example, seq, side } = of;
  return useMemo(() => {
    if (!selected?.keys.includes("pos")) return new Set<number>();
    const rows = rowsAt(selected, keyOfSequence({ run, example, seq, side }));
    return new Set(rows.flatMap((row) => selected.rows.number(row, "pos") ?? []));
  }, [selected, run, example, seq, side]);
}
