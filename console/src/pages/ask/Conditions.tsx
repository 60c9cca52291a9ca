/** The conditions that narrow the question, each to take off. */
export function Conditions({ conditions, onChange }: { conditions: readonly string[]; onChange: (conditions: string[]) => void }) {
  if (conditions.length === 0) return null;
  return (
    <ul className="conditions" aria-label="Conditions">
      {conditions.map((condition) => (
        <li key={condition} className="chip">
          <code>{condition}</code>
          <button type="button" className="quiet" aria-label={`Take off ${condition}`} onClick={() => onChange(conditions.filter((other) => other !== condition))}>
            ✕
          </button>
        </li>
      ))}
      {conditions.length > 1 ? (
        <li>
          <button type="button" className="quiet" onClick={() => onChange([])}>
            Take off all
          </button>
        </li>
      ) : null}
    </ul>
  );
}
