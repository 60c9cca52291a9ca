import type { Rows } from "../../api/rows";
import { inShort, visible } from "../../components/numbers";
import { formatPlace, withParams } from "../../url/codec";
import { usePlace } from "../../url/place";

/** Tokens in their context, one above the other; a click goes there. */
export function NearestList({ rows, run }: { rows: Rows; run: string }) {
  const place = usePlace();
  const places = Array.from({ length: rows.length }, (_, row) => row);
  return (
    <ol className="contexts">
      {places.map((row) => {
        const there = rows.text(row, "run_id");
        const parts = [there, rows.text(row, "example_id"), String(rows.number(row, "seq") ?? 0)];
        const next = rows.text(row, "pred_token");
        return (
          <li key={row}>
            <a href={formatPlace(withParams({ ...place, parts }, { pos: rows.number(row, "pos") ?? 0 }))} title={`${parts.join(" / ")}, pos ${rows.number(row, "pos") ?? ""}`}>
              <span className="number">{inShort(rows.number(row, "distance"))}</span>
              <span className={there === run ? "muted" : "other-run"}>{there === run ? "this run" : there}</span>
              <span className="before">{oneLine(rows.text(row, "before"))}</span>
              <mark>{visible(rows.text(row, "token"))}</mark>
              <span className="after">{oneLine(rows.text(row, "after"))}</span>
              <span className="muted next">{next ? `→ ${visible(next)}` : ""}</span>
            </a>
          </li>
        );
      })}
    </ol>
  );
}

/** Text around a token, with what cannot be seen made visible, but for spaces. */
function oneLine(text: string): string {
  return text
    .split(" ")
    .map((part) => (part === "" ? "" : visible(part)))
    .join(" ");
}
