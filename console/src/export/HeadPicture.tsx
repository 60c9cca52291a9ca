import { useMemo } from "react";
import type { Rows } from "../api/rows";
import { Heatmap } from "../components/Heatmap";
import { Legend } from "../components/Legend";
import { inShort, percent, visible } from "../components/numbers";
import { pointed } from "../pages/text/pointed";
import { useStore } from "../env/store";
import { update } from "../url/place";
import { bytesOf, type Head } from "./data";

const SIDE_PX = 360;
const BYTES = { name: "mass", low: 0, high: 255 } as const;

/** The attention of one head: a row looks at columns. */
export function HeadPicture({ head, strip, pos }: { head: Head; strip: Rows; pos: number | undefined }) {
  const values = useMemo(() => bytesOf(head.bytes), [head]);
  const over = useStore(pointed);
  const [rows, cols] = head.shape;
  const [high, wide] = head.cell;
  const massOf = (byte: number) => (byte / 255) ** 2 * head.scale;
  const tokensOf = (cell: number, size: number) => {
    const first = cell * size;
    const token = <code>{visible(strip.text(first, "token"))}</code>;
    return size === 1 ? token : <>{token} … (tokens {first} to {Math.min(first + size, strip.length) - 1})</>;
  };
  const facts = Object.entries(head.about).flatMap(([name, value]) => (value === null ? [] : [`${name.replace(/_/g, " ")} ${inShort(value, 2)}`]));
  return (
    <figure className="export-head">
      <figcaption>
        <b>
          layer {head.layer}, head {head.head}
        </b>
        <span className="muted"> {facts.join(", ")}</span>
      </figcaption>
      <Heatmap
        values={values}
        rows={rows}
        cols={cols}
        scale={BYTES}
        label={`Attention of layer ${head.layer}, head ${head.head}: a row, from above, looks at columns`}
        width={SIDE_PX}
        height={Math.round((SIDE_PX * rows) / cols)}
        chosen={pos === undefined ? undefined : { row: Math.floor(pos / high) }}
        pointed={over === null ? undefined : { row: Math.floor(over / high) }}
        onChoose={(cell) => update({ pos: cell.row * high })}
        tell={(cell) => (
          <>
            {tokensOf(cell.row, high)} looks at {tokensOf(cell.col, wide)}: {percent(massOf(values[cell.row * cols + cell.col] ?? 0))}
          </>
        )}
      />
      <Legend scale={BYTES} label="row looks at column" ends={["0", inShort(head.scale)]} transform={high > 1 || wide > 1 ? `square root; each cell the largest of ${high} × ${wide}` : "square root"} />
    </figure>
  );
}
