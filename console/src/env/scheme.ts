// Light or dark, as the system says until the reader says otherwise.

import { createStore } from "./store";

export type Scheme = "light" | "dark";

const KEY = "traces-scheme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function current(): Scheme {
  const chosen = localStorage.getItem(KEY);
  return chosen === "light" || chosen === "dark" ? chosen : dark.matches ? "dark" : "light";
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
  localStorage.setItem(KEY, scheme.get() === "dark" ? "light" : "dark");
  apply();
}
