import { useEffect, useRef, useState, type PointerEvent, type ReactNode } from "react";
import { Heatmap, type Cell } from "../../components/Heatmap";
import { visible } from "../../components/numbers";
import { hideTip } from "../../components/tip";
import type { StripToken } from "../../components/Strip";
import { cellOf, tokensOf, type Picture } from "./picture";
import type { Spot } from "./zoom";

interface Props {
  picture: Picture;
  label: string;
  /** Of a side of the square, in CSS pixels. */
  side: number;
  left: number;
  below: number;
  rowTokens: readonly StripToken[];
  colTokens: readonly StripToken[];
  /** The chosen row, and the column that is marked in it. */
  pos: number | undefined;
  to: number | undefined;
  /** The tokens that the pointer is over, here or in the picture beside. */
  pointed: Cell | null;
  tell: (cell: Cell) => ReactNode;
  onPoint: (tokens: Cell | null) => void;
  onChoose: (tokens: Cell) => void;
  onZoom: (spot: Spot, factor: number) => void;
  onBox: (from: Spot, to: Spot) => void;
  onWhole: () => void;
}

const LABEL_PX = 12;
const DRAGGED_PX = 5;
const WHEEL = 0.0015;

/** A head's attention: rows look at columns. The wheel zooms, dragging zooms to what was dragged over, a double click shows the whole. */
export function AttentionMap(props: Props) {
  const { picture, label, side, left, below, rowTokens, colTokens, pos, to, pointed, tell, onPoint, onChoose, onZoom, onBox, onWhole } = props;
  const frame = useRef<HTMLDivElement>(null);
  const [drag, setDrag] = useState<{ from: Spot; to: Spot } | null>(null);
  const dragged = useRef(false);
  const [down, across] = picture.shape;
  const zoom = useRef(onZoom);
  useEffect(() => {
    zoom.current = onZoom;
  });
  useEffect(() => {
    const element = frame.current;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      if (element) zoom.current(spotIn(element, event), Math.exp(event.deltaY * WHEEL));
    };
    element?.addEventListener("wheel", wheel, { passive: false });
    return () => element?.removeEventListener("wheel", wheel);
  }, []);

  const tokensAt = (cell: Cell): Cell => ({ row: tokensOf(picture.rows, picture.cell[0], cell.row)[0], col: tokensOf(picture.cols, picture.cell[1], cell.col)[0] });
  const cellsAt = (row: number | undefined, col: number | undefined): Partial<Cell> => {
    const line = cellOf(picture.rows, picture.cell[0], row);
    const column = cellOf(picture.cols, picture.cell[1], col);
    return { ...(line === undefined ? {} : { row: line }), ...(column === undefined ? {} : { col: column }) };
  };
  const isOver = cellOf(picture.rows, picture.cell[0], pos) !== undefined;
  const over = pointed ? cellsAt(pointed.row, pointed.col) : undefined;
  const move = (event: PointerEvent<HTMLDivElement>) => {
    if (!drag || !frame.current) return;
    hideTip();
    setDrag({ from: drag.from, to: spotIn(frame.current, event) });
  };
  const end = () => {
    if (!drag) return;
    dragged.current = Math.max(Math.abs(drag.from.x - drag.to.x), Math.abs(drag.from.y - drag.to.y)) * side > DRAGGED_PX;
    if (dragged.current) onBox(drag.from, drag.to);
    setDrag(null);
  };

  return (
    <div className="attention-map" style={{ width: left + side, height: side + below }}>
      <Names of={rowTokens} shown={picture.rows} size={picture.cell[0]} count={down} side={side} chosen={pos} className="rows" style={{ width: left - 6, height: side }} />
      <div
        ref={frame}
        className="frame"
        style={{ left, width: side, height: side }}
        onPointerDown={(event) => {
          dragged.current = false;
          if (event.button === 0 && frame.current) setDrag({ from: spotIn(frame.current, event), to: spotIn(frame.current, event) });
        }}
        onPointerMove={move}
        onPointerUp={end}
        onPointerLeave={() => setDrag(null)}
        onClickCapture={(event) => {
          if (dragged.current) event.stopPropagation();
        }}
        onDoubleClick={onWhole}
      >
        <Heatmap
          values={picture.values}
          rows={down}
          cols={across}
          scale={picture.scale}
          label={label}
          width={side}
          height={side}
          chosen={isOver ? cellsAt(pos, to) : undefined}
          pointed={over}
          tell={drag ? () => null : tell}
          onPoint={(cell) => onPoint(cell ? tokensAt(cell) : null)}
          onChoose={(cell) => onChoose(tokensAt(cell))}
        />
        {drag ? <span className="dragged" style={boxOf(drag.from, drag.to)} /> : null}
      </div>
      <span className="corner" style={{ top: side + 4, width: left - 8 }}>
        row ↑ looks at column →
      </span>
      <Names of={colTokens} shown={picture.cols} size={picture.cell[1]} count={across} side={side} chosen={to} className="cols" style={{ left, top: side + 4, width: side, height: below - 4 }} />
    </div>
  );
}

interface NamesProps {
  of: readonly StripToken[];
  shown: readonly [number, number];
  size: number;
  count: number;
  side: number;
  chosen: number | undefined;
  className: string;
  style: React.CSSProperties;
}

/** The tokens along a side where there is room for them, else the positions of a few. */
function Names({ of, shown, size, count, side, chosen, className, style }: NamesProps) {
  const step = side / Math.max(count, 1);
  const named = size === 1 && step >= LABEL_PX;
  const every = named ? 1 : Math.max(1, Math.ceil((className === "cols" ? 44 : 28) / step));
  const places = Array.from({ length: Math.ceil(count / every) }, (_, place) => place * every);
  return (
    <div className={`names ${className}`} style={style} aria-hidden="true">
      {places.map((place) => {
        const pos = shown[0] + place * size;
        const at = (place + 0.5) * step;
        return (
          <span key={place} className={pos === chosen ? "chosen-token" : undefined} style={className === "rows" ? { top: at } : { left: at }} data-upright={named || undefined}>
            {named ? visible(of[pos]?.text ?? "") : pos}
          </span>
        );
      })}
    </div>
  );
}

function spotIn(element: HTMLElement, event: { clientX: number; clientY: number }): Spot {
  const box = element.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

function boxOf(from: Spot, to: Spot): React.CSSProperties {
  const percent = (part: number) => `${part * 100}%`;
  return {
    left: percent(Math.min(from.x, to.x)),
    top: percent(Math.min(from.y, to.y)),
    width: percent(Math.abs(from.x - to.x)),
    height: percent(Math.abs(from.y - to.y)),
  };
}
