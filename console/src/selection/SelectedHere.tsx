import { useStore } from "../env/store";
import { rowsAt, selection, type Key } from "./selection";

/** How much of the selection is in what a view shows: "222 rows, 14 in this example". Nothing where nothing is selected. */
export function SelectedHere({ place, of = "in this example" }: { place: Key; of?: string }) {
  const selected = useStore(selection);
  if (!selected) return null;
  const count = selected.rows.length;
  const here = rowsAt(selected, place).length;
  return (
    <span className="note selected-here">
      {count.toLocaleString("en-US")} {count === 1 ? "row" : "rows"}, {here.toLocaleString("en-US")} {of}
    </span>
  );
}
