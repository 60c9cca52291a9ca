import { describe, expect, it } from "vitest";
import { around0, cssOf, inkOn, palette, stepOf, upTo } from "./palette";

describe("a palette", () => {
  it("begins and ends with its anchors", () => {
    const colours = palette("mass", "light");
    expect(cssOf(colours, 0)).toBe("rgb(251 252 253)");
    expect(cssOf(colours, 255)).toBe("rgb(10 45 87)");
  });

  it("gives readable ink on every step, at least 4.5 to 1", () => {
    for (const scheme of ["light", "dark"] as const) {
      for (const name of ["mass", "loss", "difference"] as const) {
        const colours = palette(name, scheme);
        for (let step = 0; step < 256; step += 1) expect(contrast(colours, step)).toBeGreaterThanOrEqual(4.5);
      }
    }
  });
});

describe("a scale", () => {
  it("maps its ends to the ends, and 0 to the middle where it has two sides", () => {
    expect([0, 5, 10, 99, -3].map((value) => stepOf(upTo("loss", 10), value))).toEqual([0, 128, 255, 255, 0]);
    const sides = around0([-2, 1, Infinity]);
    expect([sides.low, sides.high, stepOf(sides, 0)]).toEqual([-2, 2, 128]);
  });
});

function contrast(colours: Uint8ClampedArray, step: number): number {
  const linear = [0, 1, 2].map((channel) => {
    const part = (colours[step * 4 + channel] ?? 0) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * (linear[0] ?? 0) + 0.7152 * (linear[1] ?? 0) + 0.0722 * (linear[2] ?? 0);
  return inkOn(colours, step) === "#000" ? (luminance + 0.05) / 0.05 : 1.05 / (luminance + 0.05);
}
