// Which sequence an address is of, and what is chosen in it: #/text/RUN/EXAMPLE/SEQ?pos=23&l=22&h=3&side=enc

import { numberParam, type Place } from "../url/codec";
import { currentPlace, go, update } from "../url/place";

export interface Sequence {
  run: string;
  example: string;
  seq: number;
  /** `dec` or `enc`; empty for the model's main side. */
  side: string;
}

export interface Chosen {
  pos: number | undefined;
  layer: number | undefined;
  head: number | undefined;
}

export function sequenceOf(place: Place): Sequence | null {
  const [run, example, seq = "0"] = place.parts;
  if (run === undefined || example === undefined) return null;
  return { run, example, seq: /^\d{1,9}$/.test(seq) ? Number(seq) : 0, side: place.params["side"] ?? "" };
}

export function chosenOf(place: Place): Chosen {
  return { pos: numberParam(place, "pos"), layer: numberParam(place, "l"), head: numberParam(place, "h") };
}

/** Goes to another text on the same page; what was chosen of the one before (its position, its zoom) is let go. */
export function goToText(run: string, example?: string, seq = 0, side = ""): void {
  const { page, params } = currentPlace();
  const kept = Object.entries(params).filter(([key]) => !OF_ONE_TEXT.has(key));
  const parts = example === undefined ? [run] : [run, example, String(seq)];
  go({ page, parts, params: Object.fromEntries(side ? [...kept, ["side", side]] : kept) });
}

const OF_ONE_TEXT = new Set(["pos", "to", "zoom", "side"]);

/** Chooses a token: pushed where it is clicked, replaced where a key moves along. */
export function choosePos(pos: number, how: "push" | "replace" = "push"): void {
  update({ pos }, how);
}
