import { useStore } from "../env/store";
import { focus, selection } from "./selection";
import { update } from "../url/place";

/** What is selected, wherever one is: how many rows, by which question; and the way to let go of it. */
export function SelectionChip() {
  const selected = useStore(selection);
  const row = useStore(focus);
  if (!selected) return null;
  const total = selected.rows.notes.total;
  const count = selected.rows.length;
  return (
    <span className="chip selection" title={selected.sql}>
      {count.toLocaleString("en-US")} {count === 1 ? "row" : "rows"} selected
      {total !== undefined && total > count ? ` of ${total.toLocaleString("en-US")}` : ""}
      {row >= 0 ? `, at ${row + 1}` : ""}
      <button
        type="button"
        className="quiet"
        aria-label="Let go of the selection"
        onClick={() => {
          selection.set(null);
          focus.set(-1);
          update({ q: undefined });
        }}
      >
        ✕
      </button>
    </span>
  );
}
