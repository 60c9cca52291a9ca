import { describe, expect, it } from "vitest";
import { Rows } from "../api/rows";
import { keyOf, keysOf, rowsAt } from "./selection";

const rows = new Rows([
  ["run_id", ["a", "a", "b"], "text"],
  ["pos", [1, 2, 1], "number"],
  ["head", [null, 3, 3], "number"],
  ["loss", [0.5, 1.5, 2.5], "number"],
]);
const selected = { rows, sql: "", keys: keysOf(rows) };

describe("rows that select", () => {
  it("have those keys that are columns of theirs", () => {
    expect(keysOf(rows)).toEqual(["run_id", "pos", "head"]);
    expect(keyOf(rows, 0)).toEqual({ run_id: "a", pos: 1 });
  });

  it("select every place that no key excludes", () => {
    expect(rowsAt(selected, { run_id: "a" })).toEqual([0, 1]);
    expect(rowsAt(selected, { run_id: "a", pos: 1, head: 7 })).toEqual([0]);
    expect(rowsAt(selected, { pos: 1, head: 3 })).toEqual([0, 2]);
    expect(rowsAt(selected, { example_id: "any", layer: 4 })).toEqual([0, 1, 2]);
  });
});
