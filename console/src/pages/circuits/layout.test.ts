import { describe, expect, it } from "vitest";
import { apart, BOX, layOut, nodeTowards, type GraphNode } from "./layout";

function node(name: string, kind: string, layer: number | null = null, head: number | null = null): GraphNode {
  return { name, kind, layer, head };
}

const nodes = [
  node("embed", "embed"),
  ...[0, 1, 2, 3].map((head) => node(`L0H${head}`, "head", 0, head)),
  node("M0", "mlp", 0),
  node("L7H1", "head", 7, 1),
  node("logits", "logits"),
];
const edges = [
  { source: "embed", into: ["L0H0", "L0H1", "L0H2", "L0H3"] },
  { source: "L0H2", into: ["M0"] },
  { source: "M0", into: ["L7H1"] },
  { source: "L7H1", into: ["logits"] },
];

describe("the picture of a circuit", () => {
  const layout = layOut(nodes, edges, 600, 400);
  const at = (name: string) => layout.nodes.get(name) ?? { name, x: NaN, y: NaN, row: NaN };

  it("has every node once, every edge leading upwards, and no two boxes on each other", () => {
    expect(layout.nodes.size).toBe(nodes.length);
    for (const edge of edges) for (const sink of edge.into) expect(at(sink).y).toBeLessThan(at(edge.source).y);
    const all = [...layout.nodes.values()];
    for (const one of all) {
      for (const other of all) {
        if (one !== other && one.row === other.row) expect(Math.abs(one.x - other.x)).toBeGreaterThanOrEqual(BOX.width);
      }
      expect(one.x - BOX.width / 2).toBeGreaterThanOrEqual(0);
      expect(one.x + BOX.width / 2).toBeLessThanOrEqual(layout.width);
      expect(one.y - BOX.height / 2).toBeGreaterThanOrEqual(0);
      expect(one.y + BOX.height / 2).toBeLessThanOrEqual(layout.height);
    }
  });

  it("names each layer once and leaves out rows without nodes", () => {
    expect(layout.rows.map((row) => row.label)).toEqual(["0", "7"]);
    expect(at("logits").row).toBe(4);
  });

  it("is walked through by arrow keys", () => {
    expect(nodeTowards(layout, undefined, "ArrowUp")).toBe("logits");
    expect(nodeTowards(layout, "logits", "ArrowUp")).toBeUndefined();
    expect(nodeTowards(layout, "logits", "ArrowDown")).toBe("L7H1");
    const row = [0, 1, 2, 3].map((head) => at(`L0H${head}`)).sort((a, b) => a.x - b.x);
    expect(nodeTowards(layout, row[1]?.name, "ArrowRight")).toBe(row[2]?.name);
    expect(nodeTowards(layout, row[3]?.name, "ArrowRight")).toBeUndefined();
  });

  it("is as wide as its widest row needs", () => {
    const many = Array.from({ length: 40 }, (_, head) => node(`L0H${head}`, "head", 0, head));
    expect(layOut(many, [], 200, 100).width).toBeGreaterThan(40 * BOX.width);
  });
});

describe("places that are kept apart", () => {
  it("are where they should be if there is room, and as near as they can be if not", () => {
    expect(apart([10, 100, 200], 20, 0, 300)).toEqual([10, 100, 200]);
    expect(apart([50, 50, 50], 20, 0, 300)).toEqual([30, 50, 70]);
    expect(apart([290, 295], 20, 0, 300)).toEqual([280, 300]);
    expect(apart([], 20, 0, 300)).toEqual([]);
  });
});
