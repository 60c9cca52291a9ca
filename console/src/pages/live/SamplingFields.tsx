import { useStore } from "../../env/store";
import { change, draft } from "./draft";

/** How a response is drawn. */
export function SamplingFields() {
  const { max_new_tokens, temperature, seed } = useStore(draft);
  return (
    <div className="live-fields">
      <Field label="tokens" value={max_new_tokens} least={1} most={512} step={1} onChange={(value) => change({ max_new_tokens: value })} />
      <Field label="temperature" value={temperature} least={0} most={10} step={0.1} onChange={(value) => change({ temperature: value })} />
      <Field label="seed" value={seed} least={0} most={2 ** 31} step={1} onChange={(value) => change({ seed: value })} />
    </div>
  );
}

interface Props {
  label: string;
  value: number;
  least: number;
  most: number;
  step: number;
  onChange: (value: number) => void;
}

/** A number between two others. */
export function Field({ label, value, least, most, step, onChange }: Props) {
  return (
    <label className="field">
      <span className="muted">{label}</span>
      <input
        type="number"
        min={least}
        max={most}
        step={step}
        value={value}
        onChange={(event) => {
          const next = event.target.valueAsNumber;
          if (Number.isFinite(next) && next >= least && next <= most && (step < 1 || Number.isInteger(next))) onChange(next);
        }}
      />
    </label>
  );
}
