import { describe, expect, it } from "vitest";
import { running } from "./running";

describe("a token in running text", () => {
  it("keeps its spaces, and shows what cannot be seen", () => {
    expect([" the", "\n", "a\tb", "", "\u202e", " ", "·"].map(running)).toEqual([" the", "↵\n", "a⇥b", "∅", "\\u202e", " ", "·"]);
  });
});
