import type { Rows } from "../../api/rows";
import type { Place } from "../../url/codec";

/** The row whose text is shown: the one in the address, else the first. */
export function shownExample(place: Place, rows: Rows): number | undefined {
  const { example, s } = place.params;
  for (let row = 0; row < rows.length; row += 1) {
    if (rows.text(row, "example_id") === example && String(rows.number(row, "seq") ?? 0) === (s ?? "0")) return row;
  }
  return rows.length > 0 && example === undefined ? 0 : undefined;
}
