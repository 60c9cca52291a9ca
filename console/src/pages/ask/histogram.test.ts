import { describe, expect, it } from "vitest";
import { Rows } from "../../api/rows";
import { binned, frequencies, niceStep, statistics } from "./histogram";

const values = Array.from({ length: 1000 }, (_, place) => ((place * 7919) % 1000) / 37 - 3);

describe("a histogram", () => {
  it.each([false, true])("has every number in the one bin that its edges hold (logarithmic: %s)", (logarithmic) => {
    const shown = logarithmic ? values.filter((value) => value > 0) : values;
    const { bins, notPositive } = binned(values, logarithmic);
    expect(notPositive).toBe(values.length - shown.length);
    expect(bins.reduce((sum, bin) => sum + bin.count, 0)).toBe(shown.length);
    bins.forEach(({ low, high, count }, place) => {
      const closed = place === bins.length - 1;
      expect(shown.filter((value) => value >= low && (value < high || (closed && value === high))).length).toBe(count);
    });
  });

  it("gives whole numbers whole bins, and counts what is no number", () => {
    const { bins, missing } = binned([0, 1, 1, 29, null, NaN], false);
    expect(missing).toBe(2);
    expect(bins).toHaveLength(30);
    expect(bins[1]).toEqual({ low: 1, high: 2, count: 2 });
  });

  it("holds where all are equal, and where there is nothing", () => {
    expect(binned([2.5, 2.5], false).bins.reduce((sum, bin) => sum + bin.count, 0)).toBe(2);
    expect(binned([2.5, 2.5], true).bins.reduce((sum, bin) => sum + bin.count, 0)).toBe(2);
    expect(binned([null], false).bins).toEqual([]);
  });

  it("has steps that people count in", () => {
    expect([0.03, 0.2, 7, 0.6].map((least) => niceStep(least, false))).toEqual([0.05, 0.2, 10, 1]);
    expect(niceStep(0.3, true)).toBe(1);
  });
});

describe("of a column", () => {
  const rows = new Rows([["loss", [1, 2, 3, null, 4], "number"]]);

  it("count, mean, ends and sum are those of the numbers", () => {
    expect(statistics(rows, "loss")).toEqual({ count: 4, mean: 2.5, min: 1, max: 4, sum: 10 });
    expect(statistics(rows, "loss", { low: 2, high: 4, closed: false })).toEqual({ count: 2, mean: 2.5, min: 2, max: 3, sum: 5 });
    expect(statistics(rows, "loss", { low: 9, high: 10, closed: true }).mean).toBeNull();
  });

  it("the most frequent values come first, and none is lost", () => {
    const { top, others, distinct } = frequencies(["b", "a", "b", null, "c"], 2);
    expect(top.map(({ text, count }) => [text, count])).toEqual([["b", 2], ["a", 1]]);
    expect([others, distinct]).toEqual([2, 4]);
  });
});
