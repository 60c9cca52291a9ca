import { useMemo } from "react";
import type { Tile } from "../../api/client";
import { useTile } from "../../api/useRows";
import { Heatmap } from "../../components/Heatmap";
import { Panel } from "../../components/Panel";
import { Show } from "../../components/Show";
import { update } from "../../url/place";
import type { Head } from "./head";

const SIZE = 48;
const SIDE = 72;
const BYTES = { name: "mass", low: 0, high: 255 } as const;

/** The heads of the chosen layer, small, each on its own scale; a click chooses one. */
export function LayerPanel({ of }: { of: Head }) {
  const { run, example, seq, side, layer } = of;
  const answer = useTile("attn/layer", { run, example, seq, side, layer, size: SIZE });
  if (answer.error?.kind === "empty") return null; // the panel of the head says what is missing
  return (
    <Panel
      title={`Layer ${layer}`}
      name="layer"
      className="attention-layer"
      note="each head on its own scale, square root"
      ways={{ python: `wh.run("${run}").attn("${example}", layer=${layer}, seq=${seq}${side ? `, side="${side}"` : ""})` }}
    >
      <Show answer={answer}>{(tile) => <Heads tile={tile} of={of} />}</Show>
    </Panel>
  );
}

function Heads({ tile, of }: { tile: Tile; of: Head }) {
  const [count = 0, rows = 0, cols = 0] = tile.about.shape;
  const heads = useMemo(() => Array.from({ length: count }, (_, head) => tile.values.subarray(head * rows * cols, (head + 1) * rows * cols)), [tile, count, rows, cols]);
  return (
    <div className="thumbnails">
      {heads.map((values, head) => (
        <button key={head} type="button" className="quiet" aria-pressed={head === of.head} aria-label={`Head ${head} of layer ${of.layer}`} onClick={() => update({ l: of.layer, h: head })}>
          <Heatmap values={values} rows={rows} cols={cols} scale={BYTES} label={`Attention of layer ${of.layer}, head ${head}`} width={SIDE} height={SIDE} />
          <span>{head}</span>
        </button>
      ))}
    </div>
  );
}
