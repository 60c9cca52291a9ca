import type { Rows } from "../../api/rows";
import { inShort, percent } from "../../components/numbers";
import type { Score } from "./scores";

/** The choices with each score as its share among them; the score that decides comes in strong colour, its best choice is the answer. */
export function Scores({ rows, scores }: { rows: Rows; scores: readonly Score[] }) {
  return (
    <table className="scores">
      <thead>
        <tr>
          <th scope="col">choice</th>
          {scores.map((score) => (
            <th scope="col" key={score.name}>
              {score.label}
              {score.decides ? <b> decides</b> : null}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {Array.from({ length: rows.length }, (_, row) => (
          <tr key={row} className={rows.get(row, "is_pred") === true ? "answer" : undefined}>
            <th scope="row">
              <code>{rows.text(row, "label")}</code> {rows.text(row, "text")}
              {rows.get(row, "is_pred") === true ? <span className="tag">answer</span> : null}
              {rows.get(row, "is_label") === true ? <span className="tag good">right</span> : null}
            </th>
            {scores.map((score) => (
              <td key={score.name} className={score.decides ? "decides" : undefined} title={`softmax over the choices: ${percent(score.shares[row])}`}>
                <span className="number">{inShort(score.values[row], 4)}</span>
                <span className="bar" aria-hidden="true">
                  <i style={{ width: `${(score.shares[row] ?? 0) * 100}%` }} />
                </span>
                <span className="number muted">{percent(score.shares[row])}</span>
                <span className="best" title={score.best === row ? "the highest" : undefined}>{score.best === row ? "★" : ""}</span>
              </td>
            ))}
          </tr>
        ))}
      </tbody>
      <caption>Bars: softmax of the score over the choices. ★ the highest, the first among equals.</caption>
    </table>
  );
}
