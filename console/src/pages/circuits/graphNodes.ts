// The nodes of a circuit's picture, as the notes of /api/circuit have them.

import type { Rows } from "../../api/rows";
import type { GraphEdge, GraphNode } from "./layout";

export interface CircuitNode extends GraphNode {
  /** The logits have none of these numbers. */
  score?: number | null;
  low?: number | null;
  high?: number | null;
  rank?: number | null;
  selection_frequency?: number | null;
  exact_effect?: number | null;
  n_in: number;
  n_out: number;
}

export function nodesOf(rows: Rows): CircuitNode[] {
  return Array.isArray(rows.notes["nodes"]) ? (rows.notes["nodes"] as CircuitNode[]) : [];
}

export function edgesOf(rows: Rows): GraphEdge[] {
  return Array.from({ length: rows.length }, (_, row) => ({
    source: rows.text(row, "source"),
    into: Array.from(rows.get(row, "into") as ArrayLike<string>),
  }));
}
