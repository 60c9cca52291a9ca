import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { layerRange, panelsOf } from "./effectPanels";

const rows = new Rows([
  ["side", ["dec", "dec", "dec", "dec"], "text"],
  ["site", ["heads", "mlp_out", "heads", "heads"], "text"],
  ["layer", [4, 3, 3, 3], "number"],
  ["head", [1, null, 0, 0], "number"],
  ["kind", ["zero", "zero", "zero", "mean"], "text"],
  ["direction", [null, null, null, null], "text"],
  ["effect", [-3, 2, 0.5, 8], "number"],
]);

describe("effects as matrices", () => {
  it("have a panel a kind, with blocks in columns beside the heads", () => {
    const [from, to] = layerRange([rows]);
    expect([from, to]).toEqual([3, 4]);
    const [zero, mean] = panelsOf("run", rows, "effect", "dec", from, to);
    expect(zero?.columns).toEqual(["0", "1", "MLP"]);
    expect(Array.from(zero?.values ?? [])).toEqual([0.5, NaN, 2, NaN, -3, NaN]);
    expect(mean?.columns).toEqual(["0"]);
    expect(Array.from(mean?.values ?? [])).toEqual([8, NaN]);
  });
});
