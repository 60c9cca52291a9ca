import { useLayoutEffect, useRef } from "react";
import { useStore } from "../env/store";
import { tip } from "./tip";

const APART = 14;

export function Tooltip() {
  const shown = useStore(tip);
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (!shown || !box.current) return;
    const { width, height } = box.current.getBoundingClientRect();
    const right = shown.x + APART + width < innerWidth;
    const below = shown.y + APART + height < innerHeight;
    box.current.style.left = `${Math.max(4, right ? shown.x + APART : shown.x - APART - width)}px`;
    box.current.style.top = `${Math.max(4, below ? shown.y + APART : shown.y - APART - height)}px`;
  }, [shown]);
  if (!shown) return null;
  return (
    <div ref={box} className="tooltip" role="tooltip">
      {shown.content}
    </div>
  );
}
