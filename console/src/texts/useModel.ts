import { useJson } from "../api/useRows";

interface Manifest {
  manifest: { model: { n_layers: number; n_heads: number | null; layer_heads: number[] | null } };
}

/** How many layers a run's model has, and how many heads each; undefined until it is known. */
export function useModel(run: string | undefined): { layers: number; heads: (layer: number) => number } | undefined {
  const { data } = useJson<Manifest>("manifest", run === undefined ? null : { run });
  if (!data) return undefined;
  const { n_layers, n_heads, layer_heads } = data.manifest.model;
  return { layers: n_layers, heads: (layer) => layer_heads?.[layer] ?? n_heads ?? 0 };
}
