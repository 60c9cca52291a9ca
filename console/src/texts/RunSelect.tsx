import { useRows } from "../api/useRows";
import type { Rows } from "../api/rows";

interface Props {
  run: string | undefined;
  onChoose: (run: string) => void;
  label?: string;
  /** What stands for no run, where there may be none. */
  none?: string;
  /** Runs that can be chosen; those with tokens where it is left out. */
  fits?: (rows: Rows, row: number) => boolean;
}

/** A run, of those whose tokens are kept. */
export function RunSelect({ run, onChoose, label = "run", none, fits = hasTokens }: Props) {
  const { data } = useRows("runs", {});
  const names = data ? Array.from({ length: data.length }, (_, row) => row).filter((row) => fits(data, row)).map((row) => data.text(row, "run_id")) : [];
  const missing = run !== undefined && !names.includes(run);
  return (
    <label className="field">
      <span className="muted">{label}</span>
      <select value={run ?? ""} onChange={(event) => onChoose(event.target.value)}>
        {none !== undefined || run === undefined ? <option value="">{none ?? "choose …"}</option> : null}
        {missing ? <option value={run}>{run}</option> : null}
        {names.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

export function hasTokens(rows: Rows, row: number): boolean {
  const tables = rows.get(row, "tables");
  return tables !== null && Array.from(tables as ArrayLike<unknown>).includes("tokens");
}
