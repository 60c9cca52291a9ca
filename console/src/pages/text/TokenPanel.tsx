import type { Rows } from "../../api/rows";
import { Facts } from "../../components/Facts";
import { visible } from "../../components/numbers";
import { Panel } from "../../components/Panel";
import { TopK } from "../../components/TopK";
import { factsOf } from "../../texts/TokenTip";
import { guessesOf } from "../../texts/tokens";
import type { Sequence } from "../../texts/where";
import { formatPlace } from "../../url/codec";
import { usePlace } from "../../url/place";

/** The chosen token: how well it was foreseen, from what, and what the model expected after it. */
export function TokenPanel({ of, rows, pos }: { of: Sequence; rows: Rows; pos: number | undefined }) {
  const place = usePlace();
  if (pos === undefined || pos >= rows.length) {
    return (
      <Panel title="Token" name="token" className="text-side">
        <p className="padded muted">Choose a token: click it, or move with ← and →.</p>
      </Panel>
    );
  }
  const token = rows.text(pos, "token");
  const next = pos + 1 < rows.length ? rows.text(pos + 1, "token") : undefined;
  const before = pos > 0 ? rows.text(pos - 1, "token") : "";
  return (
    <Panel
      title={
        <>
          Token <code>{visible(token)}</code>
        </>
      }
      name="token" className="text-side"
      note={`pos ${pos}`}
      ways={{ sql: `SELECT * FROM token_diagnostics WHERE run_id = '${of.run}' AND example_id = '${of.example}' AND seq = ${of.seq} AND pos IN (${pos - 1}, ${pos})` }}
    >
      <div className="padded token-panel">
        <Facts of={factsOf(rows, pos)} />
        <h3>
          Predicted here{pos > 0 ? <> (after <code>{visible(before)}</code>)</> : null}
        </h3>
        <TopK guesses={guessesOf(rows, pos)} actual={token} />
        <h3>
          Predicted after it{next === undefined ? null : <> (came <code>{visible(next)}</code>)</>}
        </h3>
        <TopK guesses={guessesOf(rows, pos, "next_")} actual={next} />
        <p>
          <a href={formatPlace({ page: "attention", parts: place.parts, params: { ...place.params, pos: String(pos) } })}>What it looks at</a>
        </p>
      </div>
    </Panel>
  );
}
