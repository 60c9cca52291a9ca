import type { Rows } from "../../api/rows";
import { Facts } from "../../components/Facts";
import { inShort, visible } from "../../components/numbers";
import { kindOf } from "./effectPanels";
import { unitOf } from "./units";

/** An effect with its interval, and how its head attends. */
export function EffectTip({ rows, row }: { rows: Rows; row: number }) {
  if (row < 0) return <>nothing was done here</>;
  const number = (name: string) => rows.number(row, name);
  const metric = rows.text(row, "metric") || (typeof rows.notes["shown"] === "string" ? rows.notes["shown"] : "");
  const interval = number("effect_low") === null ? [] : [["95 % interval", `${inShort(number("effect_low"))} to ${inShort(number("effect_high"))}`] as const];
  const masses = (["induction_mass", "previous_token_mass", "first_token_mass"] as const).flatMap((name) =>
    number(name) === null ? [] : [[name.replace(/_/g, " "), inShort(number(name))] as const],
  );
  const tokens = rows.has("token") && rows.text(row, "token") ? [["token", tokensAt(rows, row)] as const] : [];
  return (
    <Facts
      of={[
        ["done", rows.text(row, "spec")],
        ["kind", kindOf(rows, row)],
        ...tokens,
        [`effect on ${metric}`, `${inShort(number("effect"))} ${unitOf(metric)}`],
        ...interval,
        ["normalised", inShort(number("effect_normalised")) || "none"],
        ["without, with", `${inShort(number("baseline"))}, ${inShort(number("value"))}`],
        ["pairs", inShort(number("n"))],
        ...masses,
      ]}
    />
  );
}

/** The token at a place, and the pair's other one where it differs. */
export function tokensAt(rows: Rows, row: number): string {
  const [own, other] = [rows.text(row, "token"), rows.text(row, "other_token")];
  return other && other !== own ? `${visible(own)} / ${visible(other)}` : visible(own);
}
