import { describe, expect, it } from "vitest";
import { boxed, formatPart, parsePart, zoomed } from "./zoom";

const whole = { row0: 0, row1: 100, col0: 0, col1: 100 };

describe("a part of a matrix", () => {
  it("comes back from the address, which the whole leaves out", () => {
    const part = { row0: 3, row1: 9, col0: 0, col1: 100 };
    expect(parsePart(formatPart(part, 100, 100), 100, 100)).toEqual(part);
    expect(formatPart(whole, 100, 100)).toBeUndefined();
    for (const text of [undefined, "", "1,2,3", "5,3,0,9", "0,101,0,9", "a,b,c,d", "-1,4,0,4"]) expect(parsePart(text, 100, 100)).toBeUndefined();
  });

  it("is zoomed about a spot that stays, within the matrix", () => {
    expect(zoomed(whole, { x: 0.5, y: 0 }, 0.5, 100, 100)).toEqual({ row0: 0, row1: 50, col0: 25, col1: 75 });
    expect(zoomed({ row0: 80, row1: 100, col0: 0, col1: 20 }, { x: 0, y: 1 }, 2, 100, 100)).toEqual({ row0: 60, row1: 100, col0: 0, col1: 40 });
    expect(zoomed(whole, { x: 0.3, y: 0.9 }, 3, 100, 100)).toEqual(whole);
  });

  it("is never smaller than a few tokens, and is the whole of a short text", () => {
    expect(zoomed({ row0: 4, row1: 8, col0: 4, col1: 8 }, { x: 0.5, y: 0.5 }, 0.5, 100, 100)).toEqual({ row0: 4, row1: 8, col0: 4, col1: 8 });
    expect(zoomed({ row0: 0, row1: 2, col0: 0, col1: 2 }, { x: 0.5, y: 0.5 }, 0.5, 2, 2)).toEqual({ row0: 0, row1: 2, col0: 0, col1: 2 });
  });

  it("is what was dragged over, in either direction", () => {
    expect(boxed(whole, { x: 0.6, y: 0.5 }, { x: 0.2, y: 0.1 })).toEqual({ row0: 10, row1: 50, col0: 20, col1: 60 });
    expect(boxed(whole, { x: 0.5, y: 0.999 }, { x: 0.5, y: 1.2 })).toEqual({ row0: 96, row1: 100, col0: 50, col1: 54 });
  });
});
