import { useStore } from "../env/store";
import { update } from "../url/place";
import { asked, letGo } from "./asked";
import { focus, selection } from "./selection";

/** What is selected, wherever one is: how many rows, by which question; and the way to let go of it. */
export function SelectionChip() {
  const selected = useStore(selection);
  const question = useStore(asked);
  const row = useStore(focus);
  if (!selected) {
    return question?.error && question.error.kind !== "stopped" ? (
      <span className="chip" title={`${question.sql}\n${question.error.message}`}>
        <span className="bad">the question failed</span>
      </span>
    ) : null;
  }
  const { total } = selected.rows.notes;
  const count = selected.rows.length;
  return (
    <span className="chip selection" title={selected.sql}>
      {count.toLocaleString("en-US")} {count === 1 ? "row" : "rows"} selected
      {typeof total === "number" && total > count ? ` of ${total.toLocaleString("en-US")}` : ""}
      {row >= 0 && row < count ? `, at ${(row + 1).toLocaleString("en-US")}` : ""}
      <button
        type="button"
        className="quiet"
        aria-label="Let go of the selection"
        onClick={() => {
          letGo();
          update({ q: undefined, where: undefined, row: undefined, col: undefined });
        }}
      >
        ✕
      </button>
    </span>
  );
}
