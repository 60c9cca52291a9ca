import { useMemo } from "react";
import type { Rows } from "../../api/rows";
import type { Answer } from "../../api/useAnswer";
import { useRows, useTile } from "../../api/useRows";
import { Heatmap } from "../../components/Heatmap";
import { Legend } from "../../components/Legend";
import { inShort, visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { useSize } from "../../components/useSize";
import { formatPlace } from "../../url/codec";
import { usePlace } from "../../url/place";
import type { ChosenHead } from "./chosenHead";

const SIZE = 128;

interface Shown {
  example: string;
  seq: number;
}

/** A head's attention on the chosen text, small; the page Attention has it large. */
export function PatternPanel({ of, answer }: { of: ChosenHead; answer: Answer<Rows> }) {
  const place = usePlace();
  const rows = answer.data;
  const shown: Shown | null =
    place.params["example"] !== undefined
      ? { example: place.params["example"], seq: Number(place.params["s"] ?? 0) }
      : rows && rows.length > 0
        ? { example: rows.text(0, "example_id"), seq: rows.number(0, "seq") ?? 0 }
        : null;
  const text = shown && { run: of.run, example: shown.example, seq: shown.seq, side: of.side };
  const tile = useTile("attn", text && { ...text, layer: of.layer, head: of.head, size: SIZE });
  const tokens = useRows("strip", text);
  const where = shown && { page: "attention", parts: [of.run, shown.example, String(shown.seq)], params: { l: String(of.layer), h: String(of.head), ...(of.side ? { side: of.side } : {}) } };
  const scale = { name: "mass", low: 0, high: 1 } as const;
  const most = typeof tile.data?.about["scale"] === "number" ? tile.data.about["scale"] : 1;
  return (
    <Panel
      title="Pattern"
      name="pattern"
      className="head-pattern filled"
      controls={where ? <a href={formatPlace(where)}>open in Attention</a> : null}
      ways={
        shown
          ? {
              python: `wh.run("${of.run}").attn("${shown.example}", layer=${of.layer}, head=${of.head}, seq=${shown.seq})`,
              command: `traces plot attention ${of.run} --example ${shown.example} --seq ${shown.seq} --layers ${of.layer} --head ${of.head}`,
            }
          : {}
      }
    >
      {tile.data ? (
        <div className="told">
          <Legend scale={scale} label="probability" transform="square root" ends={["0", inShort(most)]} />
        </div>
      ) : null}
      <Show answer={tile}>{({ values, about }) => <Pattern values={values} shape={about.shape} pooled={pooledOf(about)} most={most} tokens={tokens.data} of={of} />}</Show>
    </Panel>
  );
}

interface PatternProps {
  values: ArrayLike<number>;
  shape: number[];
  pooled: number;
  most: number;
  tokens: Rows | undefined;
  of: ChosenHead;
}

function Pattern({ values, shape, pooled, most, tokens, of }: PatternProps) {
  const [box, { width, height }] = useSize<HTMLDivElement>();
  const [rows = 0, cols = 0] = shape;
  const parts = useMemo(() => Float32Array.from(values, (byte) => byte / 255), [values]);
  const side = Math.max(0, Math.min(width - 16, height - 34));
  const named = (place: number) => {
    const first = place * pooled;
    const token = tokens?.text(first, "token");
    return pooled > 1 ? `${first} to ${first + pooled - 1}` : `${first}${token === undefined ? "" : ` ${visible(token)}`}`;
  };
  return (
    <div ref={box} className="fills">
      <Heatmap
        values={parts}
        rows={rows}
        cols={cols}
        scale={{ name: "mass", low: 0, high: 1 }}
        label={`Attention of L${of.layer}H${of.head}: a row looks at columns`}
        width={side}
        height={side}
        tell={({ row, col }) => (
          <>
            {named(row)} looks at {named(col)}: {pooled > 1 ? "at most " : ""}
            {inShort((parts[row * cols + col] ?? 0) ** 2 * most)}
          </>
        )}
      />
      <p className="muted">A row looks at columns{pooled > 1 ? `; a cell is the largest of ${pooled} × ${pooled} tokens` : ""}.</p>
    </div>
  );
}

function pooledOf(about: { [key: string]: unknown }): number {
  const pooled = about["pooled"];
  return Array.isArray(pooled) && typeof pooled[0] === "number" ? pooled[0] : 1;
}
