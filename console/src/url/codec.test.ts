import { describe, expect, it } from "vitest";
import { formatPlace, numberParam, parsePlace, withParams } from "./codec";

describe("a place and its address", () => {
  const odd = ["wt2", "a/b", "100 %", "ä+ö&=#?", "«x»", "\u{1f600}", "a:b,c"];

  it.each(odd)("comes back as it was: %s", (text) => {
    const place = { page: "text", parts: ["wt2", text], params: { q: text, unknown: text, [text]: "1" } };
    expect(parsePlace(formatPlace(place))).toEqual(place);
  });

  it("keeps keys that no page knows", () => {
    const place = withParams(parsePlace("#/text/wt2/abc/0?pos=3&later=yes"), { pos: 4, l: 2 });
    expect(formatPlace(place)).toBe("#/text/wt2/abc/0?pos=4&later=yes&l=2");
    expect(formatPlace(withParams(place, { l: undefined }))).toBe("#/text/wt2/abc/0?pos=4&later=yes");
  });

  it("opens the runs where there is nothing, and survives an address that was cut short", () => {
    expect(parsePlace("").page).toBe("runs");
    expect(parsePlace("#/text/%E4%").parts).toEqual(["%E4%"]);
  });

  it("takes only whole numbers for numbers", () => {
    const place = parsePlace("#/text?a=12&b=-1&c=1e3&d=&e=0");
    expect(["a", "b", "c", "d", "e", "f"].map((key) => numberParam(place, key))).toEqual([12, undefined, undefined, undefined, 0, undefined]);
  });
});
