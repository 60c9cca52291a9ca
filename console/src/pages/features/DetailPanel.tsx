import { Choice } from "../../components/Choice";
import { update, usePlace } from "../../url/place";
import { AssociationsPanel } from "./AssociationsPanel";
import type { Encoded, Token } from "./encoded";
import { TogetherPanel } from "./TogetherPanel";
import { TokenFeaturesPanel } from "./TokenFeaturesPanel";

const PANELS = [
  ["token", "At a token"],
  ["together", "Together"],
  ["goes", "Goes with"],
] as const;
type PanelName = (typeof PANELS)[number][0];

/** The features of the chosen token, those that are active together with the feature, or what it goes with: asked when it is looked at. */
export function DetailPanel({ of, feature, token }: { of: Encoded; feature: number | undefined; token: Token | undefined }) {
  const { panel } = usePlace().params;
  const shown: PanelName = PANELS.map(([name]) => name).find((name) => name === panel) ?? "token";
  const tabs = <Choice label="view" of={PANELS} chosen={shown} onChoose={(next) => update({ panel: next === "token" ? undefined : next })} />;
  if (shown === "together") return <TogetherPanel of={of} feature={feature} tabs={tabs} />;
  if (shown === "goes") return <AssociationsPanel of={of} feature={feature} tabs={tabs} />;
  return <TokenFeaturesPanel of={of} feature={feature} token={token} tabs={tabs} />;
}
