interface Props {
  label: string;
  value: number;
  most: number;
  onChange: (value: number) => void;
}

/** A whole number from 0, such as a layer. */
export function NumberField({ label, value, most, onChange }: Props) {
  return (
    <label className="field">
      <span className="muted">{label}</span>
      <input
        type="number"
        min={0}
        max={most}
        value={value}
        onChange={(event) => {
          const next = event.target.valueAsNumber;
          if (Number.isInteger(next) && next >= 0 && next <= most) onChange(next);
        }}
      />
    </label>
  );
}
