import { inShort, percent } from "../../components/numbers";
import { update } from "../../url/place";

interface Props {
  size: number;
  /** All edges of the model. */
  edges: number;
  /** Sizes that were evaluated. */
  sizes: readonly number[];
  /** The edges that the size asks for, and those left when what dangles is dropped. */
  asked: number | undefined;
  left: number | undefined;
}

const STEPS = 200;

/** The circuit's size, on a logarithmic scale from one edge to all; the sizes that were evaluated beside it. */
export function SizeSlider({ size, edges, sizes, asked, left }: Props) {
  const least = Math.log10(1 / Math.max(2, edges));
  const place = Math.round((1 - Math.log10(Math.min(size <= 1 ? size : size / edges, 1)) / least) * STEPS);
  return (
    <div className="size-slider">
      <label className="field">
        <span className="muted">size</span>
        <input
          type="range"
          min={0}
          max={STEPS}
          value={place}
          aria-valuetext={`${percent(size)} of all edges`}
          onChange={(event) => update({ size: Number((10 ** (least * (1 - Number(event.target.value) / STEPS))).toPrecision(3)) }, "replace")}
        />
      </label>
      <span className="number">{inShort(size)}</span>
      {asked !== undefined && left !== undefined ? (
        <span className="muted">
          {inShort(asked)} edges, {inShort(left)} of them on a path from the embedding to the logits
        </span>
      ) : null}
      {sizes.length > 0 ? (
        <span className="choice" role="group" aria-label="Sizes that were evaluated">
          {sizes.map((each) => (
            <button key={each} type="button" className="quiet" aria-pressed={each === size} onClick={() => update({ size: each })}>
              {inShort(each)}
            </button>
          ))}
        </span>
      ) : null}
    </div>
  );
}
