import { useRows } from "../../api/useRows";
import type { Rows } from "../../api/rows";
import { update, usePlace } from "../../url/place";
import { everyRow } from "./effectPanels";

/** All pairs, those of a template (whose positions mean the same), or one pair. */
export function PairSelect({ run }: { run: string }) {
  const place = usePlace();
  const { data } = useRows("patching/pairs", { run });
  const { example, template } = place.params;
  const templates = data ? templatesOf(data) : [];
  return (
    <label className="field">
      <span className="muted">pairs</span>
      <select
        className="wide"
        value={example ? `e ${example}` : template ? `t ${template}` : ""}
        onChange={({ target: { value } }) =>
          update({ example: value.startsWith("e ") ? value.slice(2) : undefined, template: value.startsWith("t ") ? value.slice(2) : undefined })
        }
      >
        <option value="">mean over all pairs</option>
        {templates.length > 1 ? (
          <optgroup label="mean over the pairs of a template">
            {templates.map((each) => (
              <option key={each} value={`t ${each}`}>
                {each}
              </option>
            ))}
          </optgroup>
        ) : null}
        <optgroup label="one pair">
          {data
            ? everyRow(data).map((row) => (
                <option key={row} value={`e ${data.text(row, "example_id")}`}>
                  {data.text(row, "text") || data.text(row, "example_id")}
                </option>
              ))
            : null}
        </optgroup>
      </select>
    </label>
  );
}

/** The templates of more than one pair. */
function templatesOf(rows: Rows): string[] {
  const counts = new Map<string, number>();
  for (const row of everyRow(rows)) counts.set(rows.text(row, "template"), (counts.get(rows.text(row, "template")) ?? 0) + 1);
  return [...counts].flatMap(([template, count]) => (template && count > 1 ? [template] : []));
}
