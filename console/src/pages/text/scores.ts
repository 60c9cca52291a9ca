// What an evaluation says of a text, in a line a score.

import type { Rows } from "../../api/rows";

export interface ScoreLine {
  name: string;
  /** Whether the answer was right; null where the score does not say. */
  right: boolean | null;
  text: string;
  explanation: string;
}

/** The scores of a sequence as lines: `match: I, target Paris, answer Rome, by some/model`. */
export function scoreLines(rows: Rows): ScoreLine[] {
  return Array.from({ length: rows.length }, (_, row) => {
    const scorer = rows.text(row, "scorer");
    const metric = rows.text(row, "metric");
    const name = metric === "score" ? scorer : `${scorer} ${metric}`;
    const right = rows.get(row, "is_correct");
    const said = [
      ["target", rows.text(row, "target")],
      ["answer", rows.text(row, "answer")],
      ["by", rows.text(row, "answered_by")],
    ].filter(([, value]) => value !== "");
    const score = rows.text(row, "score");
    const text = [`${name}: ${score}`, ...said.map(([what, value]) => `${what} ${value}`)].join(", ");
    return { name, right: typeof right === "boolean" ? right : null, text, explanation: rows.text(row, "explanation") };
  });
}
