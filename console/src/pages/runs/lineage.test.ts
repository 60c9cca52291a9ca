import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { lineage } from "./lineage";

function runs(parents: Record<string, string[]>): Rows {
  const names = Object.keys(parents);
  return new Rows([
    ["run_id", names, "text"],
    ["kind", names.map(() => "next-token"), "text"],
    ["parents", Object.values(parents), "other"],
  ]);
}

describe("a lineage", () => {
  const found = lineage(runs({ other: [], vectors: ["responses"], projection: ["answers", "vectors"], answers: [], responses: ["lost"] }), "vectors");

  it("holds what the run was made of and what was made of it, and no more", () => {
    expect(found.nodes.map((node) => node.run).sort()).toEqual(["lost", "projection", "responses", "vectors"]);
    expect(found.nodes.find((node) => node.run === "lost")?.there).toBe(false);
  });

  it("has every run right of all that it was made of", () => {
    const column = new Map(found.nodes.map((node) => [node.run, node.column]));
    expect(found.edges).toHaveLength(3);
    for (const [from, to] of found.edges) expect(column.get(to)).toBeGreaterThan(column.get(from) ?? NaN);
  });

  it("shows the run itself among however many", () => {
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, place) => [`r${place}`, ["root"]]));
    const of = lineage(runs({ ...many, root: [] }), "r99");
    expect(of.nodes.map((node) => node.run)).toEqual(["root", "r99"]);
    const all = lineage(runs({ ...many, root: [] }), "root");
    expect([all.nodes.length, all.total]).toEqual([31, 101]);
  });

  it("ends where runs name each other", () => {
    expect(lineage(runs({ a: ["b"], b: ["a"] }), "a").nodes).toHaveLength(2);
  });
});
