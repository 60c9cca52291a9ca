export interface Left {
  damaged: { run_id: string; fault: string }[];
  unfinished: string[];
}

/** Runs that are left out because they are damaged, and captures that have not ended. */
export function Leftovers({ left }: { left: Left }) {
  if (left.damaged.length === 0 && left.unfinished.length === 0) return null;
  return (
    <ul className="leftovers" aria-label="Damaged and unfinished runs">
      {left.damaged.map(({ run_id: run, fault }) => (
        <li key={run} title={fault}>
          <span className="bad">damaged</span> {run} <span className="muted">{fault}</span>
        </li>
      ))}
      {left.unfinished.map((run) => (
        <li key={run} title={`Run its capture again to go on, or: traces runs rm ${run}`}>
          <span className="bad">unfinished</span> {run} <span className="muted">its capture again goes on</span>
        </li>
      ))}
    </ul>
  );
}
