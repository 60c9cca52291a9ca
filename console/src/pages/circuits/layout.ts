// Where the nodes of a circuit stand: the embedding below, the logits on top, each layer's heads below its MLP.

export interface GraphNode {
  name: string;
  kind: string;
  layer: number | null;
  head: number | null;
}

export interface GraphEdge {
  source: string;
  into: readonly string[];
}

export interface Placed {
  name: string;
  /** The middle of its box, in CSS pixels. */
  x: number;
  y: number;
  /** Counted from the embedding upwards, empty rows left out. */
  row: number;
}

export interface Layout {
  width: number;
  height: number;
  nodes: Map<string, Placed>;
  /** The layer of each row that has one, for names at the side. */
  rows: { y: number; label: string }[];
}

export const BOX = { width: 42, height: 15 };
const GAP = 6;
const ROW = { least: 18, most: 40 };
const LEFT = 34;
const SWEEPS = 8;
/** From the ends to the outermost nodes, so that lines have room to bend. */
const SIDE = 60;
const WIDEST = 3;

/** Rows by layer; in a row each node near to what it is linked with, so that few lines cross. */
export function layOut(nodes: readonly GraphNode[], edges: readonly GraphEdge[], width: number, height: number): Layout {
  const levels = [...new Set(nodes.map(levelOf))].sort((a, b) => a - b);
  const rows = levels.map((level) => nodes.filter((node) => levelOf(node) === level).map((node) => node.name));
  const widest = Math.max(1, ...rows.map((row) => row.length));
  const across = Math.max(width - LEFT, widest * (BOX.width + GAP));
  const step = Math.min(ROW.most, Math.max(ROW.least, (height - BOX.height) / Math.max(1, rows.length)));
  const linked = neighbours(nodes, edges);
  const x = new Map<string, number>();
  rows.forEach((row, place) => row.forEach((name, at) => x.set(name, LEFT + across * (0.5 + 0.08 * (place % 2 ? -1 : 1)) + at)));
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const order = sweep % 2 ? rows.map((_, place) => place) : rows.map((_, place) => rows.length - 1 - place);
    for (const place of order) {
      const aside = (place % 2 ? -1 : 1) * 0.04 * across; // a node right above another would hide the lines that pass it
      const wanted = (rows[place] ?? []).map((name) => ({ name, at: aside + middle(linked.get(name) ?? [], x, name) }));
      wanted.sort((a, b) => a.at - b.at || (a.name < b.name ? -1 : 1));
      const set = apart(wanted.map((each) => each.at), BOX.width + GAP, LEFT + BOX.width / 2, LEFT + across - BOX.width / 2);
      wanted.forEach((each, at) => x.set(each.name, set[at] ?? 0));
      rows[place] = wanted.map((each) => each.name);
    }
  }
  spread(x, LEFT + SIDE, LEFT + across - SIDE);
  const total = Math.max(step * rows.length, BOX.height);
  const placed = new Map<string, Placed>();
  rows.forEach((row, place) => {
    for (const name of row) placed.set(name, { name, x: x.get(name) ?? 0, y: total - step * (place + 0.5), row: place });
  });
  return { width: LEFT + across, height: total, nodes: placed, rows: labels(levels, nodes, total, step) };
}

/** Heads of layer l at 2l + 1, its MLP at 2l + 2; the embedding at 0, the logits above all. */
function levelOf(node: GraphNode): number {
  if (node.kind === "embed") return 0;
  if (node.kind === "logits" || node.layer === null) return Number.MAX_SAFE_INTEGER;
  return 2 * node.layer + (node.kind === "mlp" ? 2 : 1);
}

function labels(levels: readonly number[], nodes: readonly GraphNode[], total: number, step: number): Layout["rows"] {
  const seen = new Set<number>();
  return levels.flatMap((level, place) => {
    const layer = nodes.find((node) => levelOf(node) === level)?.layer;
    if (layer === null || layer === undefined || seen.has(layer)) return [];
    seen.add(layer);
    return [{ y: total - step * (place + 0.5), label: String(layer) }];
  });
}

function neighbours(nodes: readonly GraphNode[], edges: readonly GraphEdge[]): Map<string, string[]> {
  const found = new Map<string, string[]>(nodes.map((node) => [node.name, []]));
  for (const edge of edges) {
    for (const sink of edge.into) {
      found.get(edge.source)?.push(sink);
      found.get(sink)?.push(edge.source);
    }
  }
  return found;
}

function middle(names: readonly string[], x: ReadonlyMap<string, number>, own: string): number {
  if (names.length === 0) return x.get(own) ?? 0;
  return names.reduce((sum, name) => sum + (x.get(name) ?? 0), 0) / names.length;
}

/** Moves nodes away from each other to fill the room between two ends, where they take less. */
function spread(x: Map<string, number>, low: number, high: number): void {
  const places = [...x.values()];
  const [least, most] = [Math.min(...places), Math.max(...places)];
  const factor = Math.min(WIDEST, (high - low) / Math.max(1, most - least));
  if (factor <= 1) return;
  const start = (low + high - (most - least) * factor) / 2;
  for (const [name, at] of x) x.set(name, start + (at - least) * factor);
}

/** Places near the wanted ones, which ascend, none nearer than a gap to the next, all between two ends where they fit. */
export function apart(wanted: readonly number[], gap: number, low: number, high: number): number[] {
  const places: number[] = [];
  for (const at of wanted) places.push(Math.max(at, (places.at(-1) ?? -Infinity) + gap));
  const shift = places.length === 0 ? 0 : wanted.reduce((sum, at, place) => sum + at - (places[place] ?? 0), 0) / places.length;
  const moved = places.map((at) => at + shift);
  const over = Math.max(0, (moved.at(-1) ?? high) - high);
  const under = Math.max(0, low - ((moved[0] ?? low) - over));
  return moved.map((at) => at - over + under);
}

/** The node that an arrow key leads to: the next in the row, or the nearest one of the next row. */
export function nodeTowards(layout: Layout, from: string | undefined, key: string): string | undefined {
  const nodes = [...layout.nodes.values()];
  const at = from === undefined ? undefined : layout.nodes.get(from);
  if (!at) return nodes.sort((a, b) => b.row - a.row)[0]?.name;
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const row = nodes.filter((node) => node.row === at.row).sort((a, b) => a.x - b.x);
    return row[row.indexOf(at) + (key === "ArrowLeft" ? -1 : 1)]?.name;
  }
  const row = nodes.filter((node) => node.row === at.row + (key === "ArrowUp" ? 1 : -1));
  return row.sort((a, b) => Math.abs(a.x - at.x) - Math.abs(b.x - at.x))[0]?.name;
}

/** A line from a node up to another, bent the more, the more rows it passes. */
export function edgePath(from: Placed, to: Placed): string {
  const [y0, y1] = [from.y - BOX.height / 2, to.y + BOX.height / 2];
  const bend = Math.min(60, 5 * Math.max(0, to.row - from.row - 1)) * (from.x <= to.x ? 1 : -1);
  const reach = (y0 - y1) / 2;
  return `M${from.x.toFixed(1)} ${y0.toFixed(1)}C${(from.x + bend).toFixed(1)} ${(y0 - reach).toFixed(1)} ${(to.x + bend).toFixed(1)} ${(y1 + reach).toFixed(1)} ${to.x.toFixed(1)} ${y1.toFixed(1)}`;
}
