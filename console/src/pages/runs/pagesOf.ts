// Which pages show something of a run: by its tables and arrays, and by what was made of it.

import type { Told } from "./manifest";

const CAUSES = ["ablation", "patching", "influence"];

/** The pages and their titles, in the order of the tabs. */
export function pagesOf({ manifest, arrays, children }: Told): [string, string][] {
  const has = (table: string) => (manifest.counts.rows[table] ?? 0) > 0;
  const kinds = [manifest.kind, ...children.map((child) => child.kind)];
  const shown: [string, string, boolean][] = [
    ["text", "Text", has("tokens")],
    ["attention", "Attention", arrays.some(({ site }) => site === "attn")],
    ["heads", "Heads", has("heads")],
    ["features", "Features", kinds.includes("features")],
    ["effects", "Effects", kinds.some((kind) => CAUSES.includes(kind))],
    ["circuits", "Circuits", kinds.some((kind) => kind.startsWith("circuit"))],
    ["diff", "Diff", has("next_token")],
    ["choices", "Choices", has("choices")],
  ];
  return shown.flatMap(([page, title, there]): [string, string][] => (there ? [[page, title]] : []));
}
