import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import { around0, cssOf, inkOn, palette, stepOf } from "../../colour/palette";
import { Facts } from "../../components/Facts";
import { inShort } from "../../components/numbers";
import { hideTip, showTip } from "../../components/tip";
import { scheme } from "../../env/scheme";
import { useStore } from "../../env/store";
import { useMarkedHeads } from "../../heads/useMarkedHeads";
import { update, usePlace } from "../../url/place";
import type { Circuit } from "./chosenCircuit";
import { CircuitEdge } from "./CircuitEdge";
import { edgesOf, nodesOf, type CircuitNode } from "./graphNodes";
import { BOX, layOut, nodeTowards } from "./layout";

/** Nodes by layer and the edges between them; arrow keys go from node to node. */
export function CircuitGraph({ rows, circuit, width, height }: { rows: Rows; circuit: Circuit; width: number; height: number }) {
  const chosen = usePlace().params["node"];
  const colours = palette("difference", useStore(scheme));
  const marked = useMarkedHeads({ run_id: circuit.source });
  const nodes = useMemo(() => nodesOf(rows), [rows]);
  const edges = useMemo(() => edgesOf(rows), [rows]);
  const layout = useMemo(() => layOut(nodes, edges, width, height), [nodes, edges, width, height]);
  const scale = useMemo(() => around0(nodes.map((node) => node.score ?? 0)), [nodes]);
  const most = useMemo(() => edges.reduce((largest, _, row) => Math.max(largest, Math.abs(rows.number(row, "score") ?? 0)), 0) || 1, [edges, rows]);
  const known = chosen !== undefined && layout.nodes.has(chosen);
  const order = useMemo(() => edges.map((_, row) => row).reverse(), [edges]); // the strongest are drawn last, on top
  const isMarked = (node: CircuitNode) => marked.some((cell) => cell.row === node.layer && cell.col === node.head);
  const choose = (name: string) => {
    const node = nodes.find((each) => each.name === name);
    update({ node: name, l: node?.layer ?? undefined, h: node?.head ?? undefined });
  };

  return (
    <svg
      className="circuit"
      width={layout.width}
      height={layout.height}
      role="img"
      aria-label={`Circuit of ${circuit.task}: ${nodes.length} nodes, ${edges.length} edges, from the embedding below to the logits above`}
      tabIndex={0}
      data-nodes={nodes.length}
      data-edges={edges.length}
      onKeyDown={(event) => {
        if (!event.key.startsWith("Arrow")) return;
        event.preventDefault();
        event.stopPropagation();
        const next = nodeTowards(layout, chosen, event.key);
        if (next !== undefined) choose(next);
      }}
      onPointerLeave={hideTip}
    >
      {layout.rows.map((row) => (
        <text key={row.label} x={22} y={row.y + 4} textAnchor="end">
          {row.label}
        </text>
      ))}
      {order.map((row) => (
        <CircuitEdge key={row} rows={rows} row={row} into={edges[row]?.into ?? []} layout={layout} colours={colours} most={most} chosen={known ? chosen : undefined} />
      ))}
      {nodes.map((node) => {
        const at = layout.nodes.get(node.name);
        if (!at) return null;
        const step = typeof node.score === "number" ? stepOf(scale, node.score) : undefined; // the logits have none
        return (
          <g
            key={node.name}
            className={`node ${node.name === chosen ? "chosen" : ""} ${isMarked(node) ? "marked" : ""}`}
            data-node={node.name}
            transform={`translate(${at.x - BOX.width / 2} ${at.y - BOX.height / 2})`}
            onClick={() => choose(node.name)}
            onPointerMove={(event) => showTip(event, <NodeTip node={node} />)}
            onPointerLeave={hideTip}
          >
            <rect width={BOX.width} height={BOX.height} rx={3} style={step === undefined ? undefined : { fill: cssOf(colours, step) }} />
            <text x={BOX.width / 2} y={BOX.height - 4} textAnchor="middle" style={step === undefined ? undefined : { fill: inkOn(colours, step) }}>
              {node.name}
            </text>
          </g>
        );
      })}
    </svg>
  );
}

function NodeTip({ node }: { node: CircuitNode }) {
  const told = (name: string, value: number | null | undefined) => (value === null || value === undefined ? [] : [[name, inShort(value)] as const]);
  return (
    <Facts
      of={[
        ["node", node.name],
        ...told("score", node.score),
        ...(node.low === null || node.low === undefined ? [] : [["95 % interval", `${inShort(node.low)} to ${inShort(node.high)}`] as const]),
        ...told("rank", node.rank),
        ...told("selection frequency", node.selection_frequency),
        ...told("exact effect", node.exact_effect),
        ["edges in, out", `${inShort(node.n_in)}, ${inShort(node.n_out)}`],
      ]}
    />
  );
}
