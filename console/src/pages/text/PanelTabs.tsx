import { Choice } from "../../components/Choice";
import { update, usePlace } from "../../url/place";

const PANELS = [
  ["lens", "Lens"],
  ["nearest", "Nearest"],
  ["traits", "Traits"],
] as const;
export type PanelName = (typeof PANELS)[number][0];

export function panelName(text: string | undefined): PanelName {
  return PANELS.map(([name]) => name).find((name) => name === text) ?? "lens";
}

/** Which view of the text is below its tokens. */
export function PanelTabs() {
  const place = usePlace();
  return <Choice label="view" of={PANELS} chosen={panelName(place.params["panel"])} onChoose={(panel) => update({ panel: panel === "lens" ? undefined : panel })} />;
}
