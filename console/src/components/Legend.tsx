import { cssOf, palette, type Scale } from "../colour/palette";
import { scheme } from "../env/scheme";
import { useStore } from "../env/store";
import { inShort } from "./numbers";

const STEPS = Array.from({ length: 16 }, (_, step) => step * 17);

interface Props {
  scale: Scale;
  label: string;
  transform?: string | undefined;
  /** What stands at the two ends, where they are not the scale's own. */
  ends?: readonly [string, string] | undefined;
}

/** What the colours of a view mean: the quantity with its unit, the ends, and the transform where it is not a straight line. */
export function Legend({ scale, label, transform, ends }: Props) {
  const colours = palette(scale.name, useStore(scheme));
  const middle = scale.name === "difference" ? "0" : "";
  return (
    <div className="legend">
      <span>{label}</span>
      <span className="number">{ends?.[0] ?? inShort(scale.low)}</span>
      <span className="bar" style={{ background: `linear-gradient(to right, ${STEPS.map((step) => cssOf(colours, step)).join(", ")})` }}>
        {middle}
      </span>
      <span className="number">{ends?.[1] ?? inShort(scale.high)}</span>
      {transform ? <span className="muted">({transform})</span> : null}
    </div>
  );
}
