import { useState } from "react";
import type { Rows } from "../../api/rows";
import type { SavedQuery, Variable } from "../../api/state";
import { fittingRuns, OF_RUNS } from "./fitting";

interface Props {
  query: SavedQuery;
  runs: Rows | undefined;
  onAsk: (values: Record<string, string>) => void;
}

/** The variables of a saved query: runs to choose from those that fit, others to write. Asking it also writes its SQL into the editor. */
export function SavedForm({ query, runs, onAsk }: Props) {
  const [values, setValues] = useState<Record<string, string>>({});
  const set = (name: string, value: string) => setValues({ ...values, [name]: value });
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
  return (
    <form
      className="saved-form"
      onSubmit={(event) => {
        event.preventDefault();
        onAsk(given);
      }}
    >
      {query.variables.map((variable) => (
        <label key={variable.name}>
          <span>
            {variable.name} <span className="muted">{variable.says}</span>
          </span>
          {OF_RUNS.has(variable.name) && runs ? (
            <RunChoice query={query} variable={variable} runs={runs} value={values[variable.name] ?? ""} onChange={(value) => set(variable.name, value)} />
          ) : (
            <input type="text" value={values[variable.name] ?? ""} onChange={(event) => set(variable.name, event.target.value)} />
          )}
        </label>
      ))}
      <span className="bar-of-buttons">
        <button type="submit" className="primary">
          Ask
        </button>
        <code className="muted">traces sql --query {query.name}</code>
      </span>
    </form>
  );
}

interface ChoiceProps {
  query: SavedQuery;
  variable: Variable;
  runs: Rows;
  value: string;
  onChange: (value: string) => void;
}

function RunChoice({ query, variable, runs, value, onChange }: ChoiceProps) {
  const fitting = fittingRuns(runs, query, variable);
  return (
    <select value={value} onChange={(event) => onChange(event.target.value)}>
      <option value="">{fitting.length === 0 ? "no run fits yet" : "the newest that fits"}</option>
      {fitting.map((run) => (
        <option key={run}>{run}</option>
      ))}
    </select>
  );
}
