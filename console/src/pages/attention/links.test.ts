import { describe, expect, it } from "vitest";
import { lineOf, strongest } from "./links";

describe("links of a token", () => {
  it("are the strongest, and say how many there are", () => {
    expect(strongest([0.2, 0, 0.5, 0.2, 0.1], 2, 0.15)).toEqual({ links: [{ pos: 2, value: 0.5 }, { pos: 0, value: 0.2 }], total: 3 });
    expect(strongest([], 5, 0)).toEqual({ links: [], total: 0 });
  });
});

describe("the line of tokens", () => {
  it("leaves out what is not linked, and counts it", () => {
    expect(lineOf(10, [0], 20, 1)).toEqual([{ pos: 0 }, { gap: 8 }, { pos: 9 }, { pos: 10 }, { pos: 11 }, { gap: 8 }]);
  });

  it("has a single token instead of a gap of one, and every token once", () => {
    expect(lineOf(3, [1, 3], 5, 0)).toEqual([{ pos: 0 }, { pos: 1 }, { pos: 2 }, { pos: 3 }, { pos: 4 }]);
    expect(lineOf(0, [], 1)).toEqual([{ pos: 0 }]);
  });
});
