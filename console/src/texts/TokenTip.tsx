import type { Rows } from "../api/rows";
import { Facts } from "../components/Facts";
import { inShort, percent, visible } from "../components/numbers";
import { TopK } from "../components/TopK";
import { guessesOf } from "./tokens";

/** What is known of a token, for the tooltip over it. */
export function TokenTip({ rows, pos, value }: { rows: Rows; pos: number; value?: readonly [string, string] | undefined }) {
  const next = rows.text(pos, "next_pred_token");
  return (
    <div className="token-tip">
      <p>
        <code>{visible(rows.text(pos, "token"))}</code> <span className="muted">pos {pos}</span>
      </p>
      <Facts of={[...factsOf(rows, pos), ...(value ? [value] : [])]} />
      <TopK guesses={guessesOf(rows, pos).slice(0, 5)} actual={rows.text(pos, "token")} />
      {next ? (
        <p className="muted">
          after it: <code>{visible(next)}</code> {percent(rows.number(pos, "next_pred_prob"))}
        </p>
      ) : null}
    </div>
  );
}

/** How well a token was foreseen, and what it is as a word. */
export function factsOf(rows: Rows, pos: number): [string, string][] {
  const facts: [string, string][] = [["id", String(rows.number(pos, "token_id") ?? "")]];
  const loss = rows.number(pos, "loss");
  if (loss === null) facts.push(["loss", "none: not predicted"]);
  else {
    facts.push(
      ["loss", `${inShort(loss)} nats`],
      ["entropy", `${inShort(rows.number(pos, "entropy"))} nats`],
      ["rank", inShort(rows.number(pos, "true_rank"))],
      ["probability", percent(rows.number(pos, "true_prob"))],
    );
  }
  const turn = rows.number(pos, "turn");
  if (turn !== null) facts.push(["message", `${turn}, ${rows.text(pos, "role")}${rows.text(pos, "part") ? `, ${rows.text(pos, "part").replace("_", " ")}` : ""}`]);
  const upos = rows.text(pos, "upos");
  if (upos) facts.push(["word", `${rows.text(pos, "lemma")}, ${upos}${rows.text(pos, "deprel") ? `, ${rows.text(pos, "deprel")}` : ""}`]);
  return facts;
}
