// Effects as panels: a matrix for each run and kind, layers by heads and whole blocks, all on one scale.

import type { Rows } from "../../api/rows";

export interface EffectPanel {
  run: string;
  /** What was put in: zero, mean, resample, patch, and in which direction. */
  kind: string;
  rows: Rows;
  /** The lowest layer of the picture. */
  from: number;
  layers: number;
  columns: string[];
  /** Layer by layer; NaN where nothing was done. */
  values: Float64Array;
  /** The row behind each cell; -1 where there is none. */
  of: Int32Array;
}

const BLOCKS: Record<string, string> = { attn_out: "attn", mlp_out: "MLP" };

/** The matrices of a run's effects, one for each kind. `from` and `to` are the layers that all pictures have. */
export function panelsOf(run: string, rows: Rows, column: string, side: string, from: number, to: number): EffectPanel[] {
  const kinds = [...new Set(everyRow(rows).map((row) => kindOf(rows, row)))];
  return kinds.map((kind) => {
    const own = everyRow(rows).filter((row) => kindOf(rows, row) === kind && rows.text(row, "side") === side && rows.number(row, "layer") !== null);
    const heads = 1 + Math.max(-1, ...own.map((row) => rows.number(row, "head") ?? -1));
    const sites = [...new Set(own.filter((row) => rows.number(row, "head") === null).map((row) => rows.text(row, "site")))].sort();
    const columns = [...Array.from({ length: heads }, (_, head) => String(head)), ...sites.map((site) => BLOCKS[site] ?? site)];
    const layers = Math.max(0, to - from + 1);
    const values = new Float64Array(layers * columns.length).fill(NaN);
    const of = new Int32Array(values.length).fill(-1);
    for (const row of own) {
      const head = rows.number(row, "head");
      const at = ((rows.number(row, "layer") ?? 0) - from) * columns.length + (head ?? heads + sites.indexOf(rows.text(row, "site")));
      if (at < 0 || at >= values.length || (of[at] ?? 0) >= 0) continue; // the largest effect comes first
      values[at] = rows.number(row, column) ?? NaN;
      of[at] = row;
    }
    return { run, kind, rows, from, layers, columns, values, of };
  });
}

/** The layers that anything was done to. */
export function layerRange(every: readonly Rows[]): [number, number] {
  const layers = every.flatMap((rows) => everyRow(rows).flatMap((row) => rows.number(row, "layer") ?? []));
  return layers.length === 0 ? [0, -1] : [layers.reduce((a, b) => Math.min(a, b)), layers.reduce((a, b) => Math.max(a, b))];
}

export function kindOf(rows: Rows, row: number): string {
  const direction = rows.text(row, "direction");
  const kind = rows.text(row, "kind");
  return kind === "patch" && direction ? `${kind}, ${direction}` : kind;
}

export function everyRow(rows: Rows): number[] {
  return Array.from({ length: rows.length }, (_, row) => row);
}
