// Where the reader is: the address, pushed on navigation and replaced where something is only pointed at.

import { createStore, useStore } from "../env/store";
import { formatPlace, parsePlace, withParams, type Place } from "./codec";

const store = createStore<Place>(parsePlace(location.hash));
let text = location.hash;

export function followAddress(): void {
  addEventListener("popstate", read);
  addEventListener("hashchange", read);
  read();
}

function read(): void {
  if (location.hash === text) return;
  text = location.hash;
  store.set(parsePlace(text));
}

export function usePlace(): Place {
  return useStore(store);
}

export function currentPlace(): Place {
  return store.get();
}

/** Goes to a place. `push`: Back comes back from it. */
export function go(place: Place, how: "push" | "replace" = "push"): void {
  move(place, how);
}

/** Changes parameters of this place. `replace`: Back does not stop here, as for what is only pointed at. */
export function update(changes: Record<string, string | number | undefined>, how: "push" | "replace" = "push"): void {
  move(withParams(store.get(), changes), how);
}

function move(place: Place, how: "push" | "replace"): void {
  const address = formatPlace(place);
  if (address === text) return;
  text = address;
  try {
    if (how === "push") history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  } catch {
    // a page within a notebook has no address of its own
  }
  store.set(place);
}
