import { useMemo, type CSSProperties } from "react";
import type { Rows } from "../../api/rows";
import { inkOn, palette, stepOf } from "../../colour/palette";
import { Facts } from "../../components/Facts";
import { Heatmap } from "../../components/Heatmap";
import { inShort, percent, visible } from "../../components/numbers";
import { TopK } from "../../components/TopK";
import { useSize } from "../../components/useSize";
import { scheme } from "../../env/scheme";
import { useStore } from "../../env/store";
import { guesses } from "../../texts/tokens";
import type { Chosen } from "../../texts/where";
import { update } from "../../url/place";
import { lensValues, MEANINGS, windowAround, type Lens, type Metric } from "./lens";
import { pointed } from "./pointed";

const GUTTER = 44;
const FOOT = 20;
const CELL_WIDTH = 74;
const LEAST_HEIGHT = 13;

interface Props {
  rows: Rows;
  lens: Lens;
  metric: Metric;
  /** Whether only the tokens around the chosen one are shown, with what each layer would have said. */
  near: boolean;
  strip: Rows;
  chosen: Chosen;
}

/** Layers upwards, tokens to the right: how each layer would have predicted the token after. */
export function LensMap({ rows, lens, metric, near, strip, chosen }: Props) {
  const [box, size] = useSize<HTMLDivElement>();
  const over = useStore(pointed);
  const colours = palette(MEANINGS[metric].scale.name, useStore(scheme));
  const width = Math.max(size.width - GUTTER, 0);
  const pos = chosen.pos ?? 0;
  const [first, last] = near ? windowAround(pos, Math.max(Math.floor(width / CELL_WIDTH), 1), lens.positions) : [0, lens.positions];
  const count = last - first;
  const values = useMemo(() => lensValues(rows, lens, metric, first, last), [rows, lens, metric, first, last]);
  const height = Math.max(size.height - FOOT - 4, lens.layers.length * (near ? LEAST_HEIGHT : 3));
  const rowOf = (place: number, at: number) => lens.rowAt[place * lens.positions + at] ?? -1;
  const layerPlace = chosen.layer === undefined ? undefined : lens.layers.indexOf(chosen.layer);
  const every = Math.ceil((lens.layers.length * 14) / Math.max(height, 1));
  const tokenOf = (at: number) => visible(strip.text(at, "token"));

  return (
    <div className="lens" ref={box}>
      {width === 0 ? null : (
        <div style={{ position: "relative", paddingLeft: GUTTER, height: height + FOOT }}>
          {lens.layers.map((layer, place) =>
            place % every === 0 ? (
              <span key={place} className="axis-label left" style={{ top: height - ((place + 0.5) / lens.layers.length) * height, width: GUTTER - 6 }}>
                {layer === null ? "in" : layer}
              </span>
            ) : null,
          )}
          <Heatmap
            values={values}
            rows={lens.layers.length}
            cols={count}
            scale={MEANINGS[metric].scale}
            label={`Logit lens: ${MEANINGS[metric].label}, layers upwards, tokens ${first} to ${last - 1} to the right`}
            width={width}
            height={height}
            upwards
            chosen={{
              ...(layerPlace !== undefined && layerPlace >= 0 ? { row: layerPlace } : {}),
              ...(pos >= first && pos < last ? { col: pos - first } : {}),
            }}
            pointed={over !== null && over >= first && over < last ? { col: over - first } : undefined}
            onPoint={(cell) => pointed.set(cell ? cell.col + first : null)}
            onChoose={(cell) => update({ pos: cell.col + first, l: lens.layers[cell.row] ?? undefined })}
            tell={(cell) => {
              const at = cell.col + first;
              return <LensTip rows={rows} row={rowOf(cell.row, at)} layer={lens.layers[cell.row] ?? null} after={tokenOf(at)} next={at + 1 < strip.length ? strip.text(at + 1, "token") : undefined} />;
            }}
          />
          {near ? (
            <div className="lens-words" aria-hidden="true" style={{ left: GUTTER, width, height, gridTemplate: `repeat(${lens.layers.length}, 1fr) / repeat(${count}, 1fr)` }}>
              {Array.from({ length: lens.layers.length * count }, (_, cell) => {
                const place = lens.layers.length - 1 - Math.floor(cell / count);
                const row = rowOf(place, first + (cell % count));
                const value = values[place * count + (cell % count)] ?? NaN;
                const style: CSSProperties | undefined = Number.isNaN(value) ? undefined : { color: inkOn(colours, stepOf(MEANINGS[metric].scale, value)) };
                return (
                  <span key={cell} style={style}>
                    {row < 0 ? "" : visible(rows.text(row, "top_token"))}
                  </span>
                );
              })}
            </div>
          ) : null}
          <div className="lens-foot">
            {near
              ? Array.from({ length: count }, (_, col) => (
                  <span key={col} className={first + col === pos ? "chosen-token" : undefined} style={{ width: width / count }}>
                    {tokenOf(first + col)}
                  </span>
                ))
              : <span style={{ width }}>after token {first} … {last - 1}: what each layer predicts there</span>}
          </div>
        </div>
      )}
    </div>
  );
}

function LensTip({ rows, row, layer, after, next }: { rows: Rows; row: number; layer: number | null; after: string; next: string | undefined }) {
  if (row < 0) return <p>no lens here</p>;
  return (
    <div className="token-tip">
      <p>
        {layer === null ? "what enters layer 0" : `layer ${layer}`}, after <code>{after}</code>
        {next === undefined ? null : <>; then came <code>{visible(next)}</code></>}
      </p>
      <Facts
        of={[
          ["rank of what came", inShort(rows.number(row, "actual_rank"))],
          ["its probability", percent(rows.number(row, "actual_prob"))],
          ["entropy", `${inShort(rows.number(row, "entropy"))} nats`],
          ["KL from the end", `${inShort(rows.number(row, "kl_to_final"))} nats`],
        ]}
      />
      <TopK guesses={guesses(rows.get(row, "topk_tokens"), rows.get(row, "topk_probs"))} actual={next} />
    </div>
  );
}
