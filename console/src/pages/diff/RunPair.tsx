import type { Rows } from "../../api/rows";
import { RunSelect } from "../../texts/RunSelect";
import { withParams } from "../../url/codec";
import { currentPlace, go } from "../../url/place";

/** Which two runs are compared, and the way to change their places. */
export function RunPair({ a, b }: { a: string | undefined; b: string | undefined }) {
  return (
    <>
      <RunSelect run={a} label="A" fits={hasPredictions} onChoose={(run) => choose(run, b)} />
      <button type="button" className="quiet" aria-label="Change places" title="Change places" disabled={a === undefined || b === undefined} onClick={() => choose(b, a)}>
        ⇄
      </button>
      <RunSelect run={b} label="B" fits={hasPredictions} onChoose={(run) => choose(a, run)} />
    </>
  );
}

/** The example stays, since both runs may have it; a position of the first run is no position of another. */
function choose(a: string | undefined, b: string | undefined): void {
  const place = currentPlace();
  const runs = [a, b].filter((run) => run !== undefined && run !== "") as string[];
  go(withParams({ ...place, parts: [...runs, ...(runs.length === 2 ? place.parts.slice(2) : [])] }, { pos: undefined }));
}

function hasPredictions(rows: Rows, row: number): boolean {
  const tables = rows.get(row, "tables");
  return tables !== null && Array.from(tables as ArrayLike<unknown>).includes("next_token");
}
