// Light or dark, as the system says until the reader says otherwise.

import { createStore } from "./store";

export type Scheme = "light" | "dark";

const KEY = "traces-scheme";
const dark = matchMedia("(prefers-color-scheme: dark)");

/** What the reader has said; a page that may keep nothing, such as one in a frame, forgets it when it closes. */
let said: string | null = kept();

function kept(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(chosen: Scheme): void {
  said = chosen;
  try {
    localStorage.setItem(KEY, chosen);
  } catch {
    // `said` has it
  }
}

function current(): Scheme {
  return said === "light" || said === "dark" ? said : dark.matches ? "dark" : "light";
}

export const scheme = createStore<Scheme>(current());

function apply(): void {
  scheme.set(current());
  document.documentElement.dataset["scheme"] = scheme.get();
}

export function followScheme(): void {
  dark.addEventListener("change", apply);
  apply();
}

export function toggleScheme(): void {
  keep(scheme.get() === "dark" ? "light" : "dark");
  apply();
}
