// The curves of an evaluated circuit as lines over size, on one axis of sizes.

import type { Rows } from "../../api/rows";
import type { Line } from "../../components/LineChart";
import { asText } from "../../components/numbers";

export interface Curves {
  /** Sizes, ascending. */
  x: number[];
  lines: Line[];
  /** Lines that are left out. */
  left: number;
  /** Sizes that were evaluated on the circuit's own task with this selection. */
  sizes: number[];
}

const OTHERS = [
  { colour: "--line-3", dashed: false },
  { colour: "--line-4", dashed: false },
  { colour: "--line-3", dashed: true },
  { colour: "--line-4", dashed: true },
];

/** The circuit's own curve with its complement and random edges, then its other selections, then other tasks. */
export function curvesOf(rows: Rows, circuit: string, selection: string): Curves {
  const of = Array.from({ length: rows.length }, (_, row) => row).filter((row) => rows.text(row, "circuit") === circuit && rows.text(row, "part") === "all");
  const groups = new Map<string, number[]>();
  for (const row of of) {
    const name = ["is_own", "selection", "task", "source_run_id", "ablation", "metric", "level"].map((column) => asText(rows.get(row, column))).join("\u0000");
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  const isOwn = (group: readonly number[]) => group.some((row) => rows.get(row, "is_own") === true && rows.text(row, "selection") === selection);
  const sorted = [...groups.values()].sort((a, b) => Number(isOwn(b)) - Number(isOwn(a)));
  const x = [...new Set(of.flatMap((row) => rows.number(row, "size") ?? []))].sort((a, b) => a - b);
  const own = sorted[0] && isOwn(sorted[0]) ? sorted[0] : undefined;
  const over = (group: readonly number[], column: string) => {
    const at = new Map(group.map((row) => [rows.number(row, "size"), rows.number(row, column)]));
    return x.map((size) => at.get(size) ?? null);
  };
  const lines: Line[] = [];
  if (own) {
    const band = (low: string, high: string) => ({ low: over(own, low), high: over(own, high) });
    lines.push({ label: `circuit, ${selection}`, values: over(own, "faithfulness"), colour: "--line-1", band: band("low", "high") });
    if (own.some((row) => rows.number(row, "random") !== null)) {
      lines.push({ label: "random edges", values: over(own, "random"), colour: "--line-5", band: band("random_low", "random_high") });
    }
    if (own.some((row) => rows.number(row, "complement") !== null)) {
      lines.push({ label: "all other edges", values: over(own, "complement"), colour: "--line-2", dashed: true });
    }
  }
  const others = sorted.filter((group) => group !== own);
  OTHERS.slice(0, others.length).forEach((drawn, place) => {
    const group = others[place] ?? [];
    lines.push({ ...drawn, label: nameOf(rows, group[0] ?? 0), values: over(group, "faithfulness") });
  });
  return { x, lines: lines.map((line) => ({ ...line, spans: true })), left: Math.max(0, others.length - OTHERS.length), sizes: own ? x.filter((_, at) => lines[0]?.values[at] !== null) : [] };
}

function nameOf(rows: Rows, row: number): string {
  const parts = [rows.text(row, "source_run_id") || rows.text(row, "task"), rows.text(row, "selection"), rows.text(row, "ablation"), rows.text(row, "metric")];
  return (rows.get(row, "is_own") === true ? parts.slice(1, 2) : parts.filter(Boolean)).join(", ");
}

/** The size to begin with: the smallest that keeps what the model does to within a fifth, else 0.01. */
export function firstSize(rows: Rows | undefined, circuit: string, selection: string): number {
  if (!rows) return 0.01;
  const { x, lines, sizes } = curvesOf(rows, circuit, selection);
  const kept = lines[0]?.values ?? [];
  return sizes.find((size) => size < 1 && Math.abs(1 - (kept[x.indexOf(size)] ?? Infinity)) <= 0.2) ?? 0.01;
}
