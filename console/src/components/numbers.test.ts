import { describe, expect, it } from "vitest";
import { asText, inBytes, inShort, percent, visible } from "./numbers";

describe("numbers as text", () => {
  it.each([
    [0, "0"],
    [1234567, "1,234,567"],
    [0.000012345, "1.23e−5"],
    [-2.5, "−2.5"],
    [12.3456, "12.3"],
    [123456.7, "123456.7"],
    [Infinity, "∞"],
    [NaN, "NaN"],
  ])("%s is %s", (value, text) => expect(inShort(value)).toBe(text));

  it("keeps small parts apart from none, and nearly all from all", () => {
    expect([0, 0.0004, 0.034, 0.5, 0.9949, 0.9973, 0.99996, 1].map(percent)).toEqual(["0.0 %", "< 0.1 %", "3.4 %", "50 %", "99 %", "99.7 %", "> 99.9 %", "100 %"]);
  });
});

it("shows what a token would hide", () => {
  expect(visible(" a\n\t\u202e")).toBe("·a↵⇥\\u202e");
  expect(visible("")).toBe("∅");
});

it("puts every value on a line", () => {
  expect(asText([1, null, "x", { a: true }])).toBe('[1, , x, {"a":true}]');
});

describe("bytes", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 KB"],
    [3_107_311_641, "3.1 GB"],
    [205_000_000, "205 MB"],
  ])("%s are told as %s", (bytes, text) => expect(inBytes(bytes)).toBe(text));
});
