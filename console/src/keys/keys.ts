// The keyboard: what each key does in the views that are open now. `?` lists them.

import { useEffect, useRef } from "react";
import { createStore } from "../env/store";

export interface Binding {
  /** As `KeyboardEvent.key` has it, after `Ctrl+` and `Shift+` where they are held. */
  key: string;
  /** What it does, in a few words. */
  does: string;
}

interface Bound extends Binding {
  act: React.RefObject<() => void>;
}

export const bindings = createStore<readonly Bound[]>([]);

/** Binds a key while a component is there; the component that came last has it. */
export function useKey(key: string, does: string, act: () => void, enabled = true): void {
  const newest = useRef(act);
  useEffect(() => {
    newest.current = act;
  });
  useEffect(() => {
    if (!enabled) return;
    const bound: Bound = { key, does, act: newest };
    bindings.set([bound, ...bindings.get()]);
    return () => bindings.set(bindings.get().filter((other) => other !== bound));
  }, [key, does, enabled]);
}

export function followKeys(): void {
  addEventListener("keydown", (event) => {
    const name = `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.key}`;
    const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select, [contenteditable='true']");
    if (typing && !event.ctrlKey && !event.metaKey && event.key !== "Escape") return;
    const bound = bindings.get().find((binding) => binding.key === name);
    if (!bound || event.defaultPrevented) return;
    event.preventDefault();
    bound.act.current();
  });
}
