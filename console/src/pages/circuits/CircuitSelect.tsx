import { go } from "../../url/place";
import type { Circuit } from "./chosenCircuit";

/** Chooses among the circuits that were found. */
export function CircuitSelect({ circuit, circuits }: { circuit: Circuit | undefined; circuits: readonly Circuit[] }) {
  return (
    <label className="field">
      <span className="muted">circuit</span>
      <select
        className="wide"
        value={circuit ? `${circuit.run}/${circuit.name}` : ""}
        onChange={(event) => {
          const [run = "", name = ""] = event.target.value.split("/");
          go({ page: "circuits", parts: [run], params: { circuit: name } });
        }}
      >
        {circuit ? null : <option value="">choose …</option>}
        {circuits.map((each) => (
          <option key={`${each.run}/${each.name}`} value={`${each.run}/${each.name}`}>
            {each.run}/{each.name} ({each.task}, {each.metric})
          </option>
        ))}
      </select>
    </label>
  );
}
