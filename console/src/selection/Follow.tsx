import { useEffect } from "react";
import { useStore } from "../env/store";
import { useKey } from "../keys/keys";
import { numberParam, type Place } from "../url/codec";
import { go, update } from "../url/place";
import { placeOf } from "../url/remembered";
import { ask, asked } from "./asked";
import { conditionsIn, narrowed } from "./conditions";
import { callEditor } from "./editorCall";
import { focus, selection } from "./selection";
import { placeOfRow } from "./places";

/** Keeps the selection as the address says it, on every page: asks its question, and looks at its row. `j` and `k` go on to others. */
export function Follow({ place }: { place: Place }) {
  const { q, where } = place.params;
  const row = numberParam(place, "row") ?? -1;
  const selected = useStore(selection);
  useEffect(() => {
    if (!q) return;
    const sql = narrowed(q, conditionsIn(where));
    if (asked.get()?.sql !== sql) void ask(sql);
  }, [q, where]);
  useEffect(() => focus.set(row), [row]);

  const step = (by: number) => {
    if (!selected || selected.rows.length === 0) return;
    const next = Math.min(Math.max(row + by, 0), selected.rows.length - 1);
    if (next === row) return;
    const there = placeOfRow(place, selected.rows, next);
    if (there) go(there);
    else update({ row: next }, "replace");
  };
  useKey("j", "next row of the selection", () => step(1), selected !== null);
  useKey("k", "row before in the selection", () => step(-1), selected !== null);
  useKey("/", "write a question", () => {
    if (place.page !== "ask") go(placeOf({ name: "ask", keeps: 0 }));
    callEditor();
  });
  return null;
}
