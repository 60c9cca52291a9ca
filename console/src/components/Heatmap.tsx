import { useEffect, useRef, type KeyboardEvent, type PointerEvent, type ReactNode } from "react";
import { palette, stepOf, type Palette, type Scale } from "../colour/palette";
import { scheme } from "../env/scheme";
import { useStore } from "../env/store";
import { hideTip, showTip } from "./tip";

export interface Cell {
  row: number;
  col: number;
}

interface Props {
  /** Row by row; NaN is a cell without a value. */
  values: ArrayLike<number>;
  rows: number;
  cols: number;
  scale: Scale;
  /** What the picture is of, for those who do not see it. */
  label: string;
  /** On the screen, in CSS pixels; square cells in the smaller of the two where `square` is set. */
  width: number;
  height: number;
  /** Row 0 at the bottom, as layers are drawn. */
  upwards?: boolean;
  chosen?: Partial<Cell> | undefined;
  /** Cells of the selection. */
  marked?: readonly Cell[] | undefined;
  /** The row and column that the pointer is over, here or in a picture beside this one. */
  pointed?: Partial<Cell> | undefined;
  tell?: (cell: Cell) => ReactNode;
  onChoose?: (cell: Cell) => void;
  onPoint?: (cell: Cell | null) => void;
}

/** A matrix as colours, on a canvas: one colour a cell, none mixed with its neighbours. Arrow keys move the chosen cell. */
export function Heatmap(props: Props) {
  const { values, rows, cols, scale, label, width, height, upwards = false, chosen, marked, pointed, tell, onChoose, onPoint } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const colours = palette(scale.name, useStore(scheme));

  useEffect(() => {
    if (canvas.current) paint(canvas.current, { values, rows, cols, scale, colours, width, height, upwards });
  }, [values, rows, cols, scale, colours, width, height, upwards]);

  const cellAt = (event: PointerEvent): Cell | null => {
    const box = event.currentTarget.getBoundingClientRect();
    const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    const line = Math.floor(((event.clientY - box.top) / box.height) * rows);
    if (col < 0 || col >= cols || line < 0 || line >= rows) return null;
    return { row: upwards ? rows - 1 - line : line, col };
  };
  const move = (event: KeyboardEvent) => {
    const [down, right] = STEPS[event.key] ?? [0, 0];
    if (!onChoose || (down === 0 && right === 0)) return;
    event.preventDefault();
    event.stopPropagation();
    const row = clamp((chosen?.row ?? 0) + (upwards ? -down : down), rows);
    onChoose({ row, col: clamp((chosen?.col ?? 0) + right, cols) });
  };
  const frame = (cell: Partial<Cell>) => {
    const line = cell.row === undefined ? 0 : upwards ? rows - 1 - cell.row : cell.row;
    return {
      left: cell.col === undefined ? 0 : (cell.col / cols) * width,
      top: (line / rows) * height,
      width: cell.col === undefined ? width : width / cols,
      height: cell.row === undefined ? height : height / rows,
    };
  };

  return (
    <div className="heatmap" style={{ width, height }}>
      <canvas
        ref={canvas}
        role="img"
        aria-label={label}
        tabIndex={onChoose ? 0 : undefined}
        style={{ width, height }}
        data-rows={rows}
        data-cols={cols}
        onPointerMove={(event) => {
          const cell = cellAt(event);
          onPoint?.(cell);
          if (cell && tell) showTip(event, tell(cell));
          else hideTip();
        }}
        onPointerLeave={() => {
          onPoint?.(null);
          hideTip();
        }}
        onClick={(event) => {
          const cell = cellAt(event as unknown as PointerEvent);
          if (cell) onChoose?.(cell);
        }}
        onKeyDown={move}
      />
      {marked?.map((cell) => <span key={`${cell.row} ${cell.col}`} className="marked" style={frame(cell)} />)}
      {pointed?.row === undefined ? null : <span className="pointed" style={frame({ row: pointed.row })} />}
      {pointed?.col === undefined ? null : <span className="pointed" style={frame({ col: pointed.col })} />}
      {chosen ? <span className="chosen" style={frame(chosen)} /> : null}
    </div>
  );
}

const STEPS: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function clamp(at: number, count: number): number {
  return Math.min(Math.max(at, 0), count - 1);
}

interface Picture {
  values: ArrayLike<number>;
  rows: number;
  cols: number;
  scale: Scale;
  colours: Palette;
  width: number;
  height: number;
  upwards: boolean;
}

/** Draws every cell in its colour; the canvas has as many pixels as the screen, and `data-painted` counts how often it was drawn. */
function paint(canvas: HTMLCanvasElement, { values, rows, cols, scale, colours, width, height, upwards }: Picture): void {
  const picture = new ImageData(Math.max(cols, 1), Math.max(rows, 1));
  const pixels = new Uint32Array(picture.data.buffer);
  const steps = new Uint32Array(colours.slice().buffer);
  for (let row = 0; row < rows; row += 1) {
    const line = upwards ? rows - 1 - row : row;
    for (let col = 0; col < cols; col += 1) {
      const value = values[row * cols + col] ?? NaN;
      if (Number.isNaN(value)) continue; // stays transparent
      pixels[line * cols + col] = steps[stepOf(scale, value)] ?? 0;
    }
  }
  const small = new OffscreenCanvas(picture.width, picture.height);
  small.getContext("2d")?.putImageData(picture, 0, 0);
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  canvas.dataset["painted"] = String(Number(canvas.dataset["painted"] ?? 0) + 1);
}
