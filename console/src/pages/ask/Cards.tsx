import { getRows } from "../../api/client";
import type { Rows } from "../../api/rows";
import { useAnswer } from "../../api/useAnswer";
import { inShort, visible } from "../../components/numbers";
import { partsOfText } from "../../selection/places";
import { keyOf } from "../../selection/selection";

/** Up to so many rows are shown with the text around them. */
export const MOST_CARDS = 10;
const AROUND = 14;
/** Columns of predictions, which are of the token after the position. */
export const PREDICTIONS = ["loss", "true_token", "pred_token", "true_prob", "true_rank", "entropy"] as const;

interface Props {
  rows: Rows;
  chosen: number | undefined;
  onChoose: (row: number) => void;
}

/** A few rows that name tokens, each with the text around its token. */
export function Cards({ rows, chosen, onChoose }: Props) {
  return (
    <ol className="cards" aria-label="The rows in their texts">
      {Array.from({ length: rows.length }, (_, row) => (
        <Card key={row} rows={rows} row={row} chosen={row === chosen} onChoose={() => onChoose(row)} />
      ))}
    </ol>
  );
}

function Card({ rows, row, chosen, onChoose }: { rows: Rows; row: number; chosen: boolean; onChoose: () => void }) {
  const key = keyOf(rows, row);
  const [run, example, seq] = partsOfText(key) ?? [];
  const params = { run, example, seq, side: key.side };
  const answer = useAnswer(`strip ${JSON.stringify(params)}`, (signal) => getRows("strip", params, signal));
  const at = key.pos;
  const predicts = PREDICTIONS.some((name) => rows.has(name));
  const numbers = rows.names.filter((name) => rows.kind(name) === "number" && !(name in key)).slice(0, 4);
  return (
    <li>
      <button type="button" className="quiet card" aria-pressed={chosen} onClick={onChoose}>
        <span className="muted">
          {run} · {example}
          {at === undefined ? "" : ` · ${at}`}
        </span>
        <span className="context">{answer.data && typeof at === "number" ? <Context tokens={answer.data} at={at} predicts={predicts} /> : (answer.error?.message ?? "…")}</span>
        <span className="muted">{numbers.map((name) => `${name} ${inShort(rows.number(row, name))}`).join(" · ")}</span>
      </button>
    </li>
  );
}

/** The text around a token; of a prediction, the token that came is underlined. */
function Context({ tokens, at, predicts }: { tokens: Rows; at: number; predicts: boolean }) {
  const places = Array.from({ length: tokens.length }, (_, row) => row);
  const here = places.find((row) => tokens.get(row, "pos") === at) ?? -1;
  const text = (from: number, to: number) => places.slice(Math.max(from, 0), to).map((row) => tokens.text(row, "token")).join("");
  return (
    <>
      {here > AROUND ? "…" : ""}
      {text(here - AROUND, here)}
      <mark>{here >= 0 ? visible(tokens.text(here, "token")) : ""}</mark>
      {predicts && here + 1 < tokens.length ? <u title="the token that came: loss and rank are of it">{visible(tokens.text(here + 1, "token"))}</u> : text(here + 1, here + 2)}
      {text(here + 2, here + 1 + AROUND)}
      {here + 1 + AROUND < tokens.length ? "…" : ""}
    </>
  );
}
