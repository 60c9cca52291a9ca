interface Props<T extends string> {
  label: string;
  of: readonly (readonly [T, string])[];
  chosen: T;
  onChoose: (value: T) => void;
}

/** One of a few, side by side. */
export function Choice<T extends string>({ label, of, chosen, onChoose }: Props<T>) {
  return (
    <span className="choice" role="group" aria-label={label}>
      {of.map(([value, name]) => (
        <button key={value} type="button" className="quiet" aria-pressed={value === chosen} onClick={() => onChoose(value)}>
          {name}
        </button>
      ))}
    </span>
  );
}
