import { describe, expect, it } from "vitest";
import { bytesOf, rowsOf } from "./data";

describe("the data of an exported file", () => {
  it("comes back as rows, with its infinities", () => {
    const rows = rowsOf([
      ["loss", "number", [null, 1.5, "Infinity"]],
      ["token", "text", ["a", "Infinity", "</script>"]],
    ]);
    expect([rows.number(0, "loss"), rows.number(1, "loss"), rows.number(2, "loss")]).toEqual([null, 1.5, Infinity]);
    expect(rows.text(1, "token")).toBe("Infinity");
  });

  it("has every byte of a picture", () => {
    expect([...bytesOf("AH+A/w==")]).toEqual([0, 127, 128, 255]);
  });
});
