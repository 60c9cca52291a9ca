// Numbers to colours: 256 steps between the anchors of palettes.json, straight lines in sRGB.

import type { Scheme } from "../env/scheme";
import anchors from "./palettes.json";

export type PaletteName = "mass" | "loss" | "difference";

/** 256 colours, each red, green, blue and 255. */
export type Palette = Uint8ClampedArray;

const made = new Map<string, Palette>();

export function palette(name: PaletteName, scheme: Scheme): Palette {
  const key = `${scheme} ${name}`;
  const known = made.get(key) ?? build(anchors[scheme][name]);
  made.set(key, known);
  return known;
}

function build(stops: string[]): Palette {
  const colours = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  const steps = new Uint8ClampedArray(256 * 4);
  for (let step = 0; step < 256; step += 1) {
    const place = (step / 255) * (colours.length - 1);
    const below = Math.min(Math.floor(place), colours.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const from = colours[below]?.[channel] ?? 0;
      const to = colours[below + 1]?.[channel] ?? 0;
      steps[step * 4 + channel] = Math.floor(from + (to - from) * (place - below) + 0.5);
    }
    steps[step * 4 + 3] = 255;
  }
  return steps;
}

/** How values become steps of a palette. */
export interface Scale {
  name: PaletteName;
  low: number;
  high: number;
}

/** From 0 to the largest value. */
export function upTo(name: PaletteName, high: number): Scale {
  return { name, low: 0, high: high > 0 ? high : 1 };
}

/** As far below 0 as above. */
export function around0(values: Iterable<number>): Scale {
  let most = 0;
  for (const value of values) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value));
  return { name: "difference", low: -(most || 1), high: most || 1 };
}

/** Which of the 256 steps a value is; values beyond the ends are the ends. */
export function stepOf(scale: Scale, value: number): number {
  const part = (value - scale.low) / (scale.high - scale.low);
  return Math.floor(Math.min(Math.max(part, 0), 1) * 255 + 0.5);
}

export function cssOf(colours: Palette, step: number): string {
  const at = step * 4;
  return `rgb(${colours[at] ?? 0} ${colours[at + 1] ?? 0} ${colours[at + 2] ?? 0})`;
}

/** Black or white, whichever is easier to read on a step: the larger contrast ratio of WCAG 2.2. */
export function inkOn(colours: Palette, step: number): "#000" | "#fff" {
  const [r = 0, g = 0, b = 0] = [0, 1, 2].map((channel) => {
    const part = (colours[step * 4 + channel] ?? 0) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) ? "#000" : "#fff";
}
