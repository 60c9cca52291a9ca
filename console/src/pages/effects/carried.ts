// What heads carry as a matrix of layers by heads, summed where a head carries it on several paths.

import type { Rows } from "../../api/rows";
import { gridSize } from "../../heads/grid";

export function carried(rows: Rows): { layers: number; heads: number; values: Float64Array } {
  const { layers, heads } = gridSize(rows);
  const values = new Float64Array(layers * heads).fill(NaN);
  for (let row = 0; row < rows.length; row += 1) {
    const layer = rows.number(row, "layer");
    const head = rows.number(row, "head");
    const value = rows.number(row, "value");
    if (layer === null || head === null || value === null) continue;
    const at = layer * heads + head;
    const before = values[at] ?? NaN;
    values[at] = (Number.isNaN(before) ? 0 : before) + value;
  }
  return { layers, heads, values };
}
