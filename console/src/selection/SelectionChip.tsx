import { useStore } from "../env/store";
import { update } from "../url/place";
import { asked, letGo } from "./asked";
import { focus, selection } from "./selection";

/** What is selected, wherever one is: how many rows, by which question; and the way to let go of it. */
export function SelectionChip() {
  const selected = useStore(selection);
  const question = useStore(asked);
  const row = useStore(focus);
  const close = (
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
  );
  if (!selected) {
    if (!question?.error) return null;
    return (
      <span className="chip" title={`${question.sql}\n${question.error.message}`}>
        <span className="bad">{question.error.kind === "stopped" ? "the question was stopped" : "the question failed"}</span>
        {close}
      </span>
    );
  }
  const { total } = selected.rows.notes;
  const count = selected.rows.length;
  return (
    <span className="chip selection" title={selected.sql}>
      {count.toLocaleString("en-US")} {count === 1 ? "row" : "rows"} selected
      {typeof total === "number" && total > count ? ` of ${total.toLocaleString("en-US")}` : ""}
      {row >= 0 && row < count ? `, at ${(row + 1).toLocaleString("en-US")}` : ""}
      {close}
    </span>
  );
}
