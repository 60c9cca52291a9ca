// The one tooltip of the page: what the pointer is over, told beside it.

import type { ReactNode } from "react";
import { createStore } from "../env/store";

export interface Tip {
  x: number;
  y: number;
  content: ReactNode;
}

export const tip = createStore<Tip | null>(null);

export function showTip(event: { clientX: number; clientY: number }, content: ReactNode): void {
  tip.set({ x: event.clientX, y: event.clientY, content });
}

export function hideTip(): void {
  tip.set(null);
}
