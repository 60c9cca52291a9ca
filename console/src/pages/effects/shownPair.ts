import type { Rows } from "../../api/rows";
import type { Place } from "../../url/codec";
import { shownExample } from "../heads/shownExample";
import { everyRow } from "./effectPanels";

/** The row of the pair that is shown: the one in the address, else the first by its id, so that it stays from head to head. */
export function shownPair(place: Place, rows: Rows): number | undefined {
  if (place.params["example"] !== undefined) return shownExample(place, rows);
  return everyRow(rows).reduce<number | undefined>((least, row) => (least === undefined || rows.text(row, "example_id") < rows.text(least, "example_id") ? row : least), undefined);
}
