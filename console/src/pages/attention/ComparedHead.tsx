import { NumberField } from "../../components/NumberField";
import { RunSelect } from "../../texts/RunSelect";
import { useModel } from "../../texts/useModel";
import { update } from "../../url/place";
import type { Head } from "./head";

/** Which head is compared: of which run, in which layer. */
export function ComparedHead({ of, beside }: { of: Head; beside: Head }) {
  const model = useModel(beside.run);
  const layers = model?.layers ?? 1;
  const heads = model?.heads(beside.layer) ?? 1;
  return (
    <>
      <RunSelect run={beside.run} onChoose={(run) => update({ run2: run === of.run ? undefined : run }, "replace")} />
      <NumberField label="layer" value={beside.layer} most={layers - 1} onChange={(layer) => update({ l2: layer }, "replace")} />
      <NumberField label="head" value={beside.head} most={heads - 1} onChange={(head) => update({ h2: head }, "replace")} />
    </>
  );
}
