// A head on a text, as the endpoints of attention ask for it and as the other ways to have it say it.

import type { Params } from "../../api/client";
import type { Ways } from "../../components/Panel";
import type { Sequence } from "../../texts/where";

export interface Head extends Sequence {
  layer: number;
  head: number;
}

export function asked({ run, example, seq, side, layer, head }: Head): Params {
  return { run, example, seq, side, layer, head };
}

export function titleOf(a: Head, beside?: Head): string {
  return beside && beside.run !== a.run ? `${a.run} L${a.layer}H${a.head}` : `L${a.layer}H${a.head}`;
}

export function waysOf({ run, example, seq, side, layer, head }: Head): Ways {
  return {
    python: `wh.run("${run}").attn("${example}", layer=${layer}, head=${head}, seq=${seq}${side ? `, side="${side}"` : ""})`,
    command: `traces plot attention ${run} --example ${example} --seq ${seq} --layers ${layer} --head ${head}`,
  };
}
