/** Questions to begin with. */
const EXAMPLES = [
  ["Tokens that surprised the model most", "SELECT run_id, example_id, seq, pos, loss, pred_token, pred_prob, true_token\nFROM next_token\nORDER BY loss DESC\nLIMIT 1000"],
  ["Confidently wrong", "SELECT run_id, example_id, seq, pos, pred_token, pred_prob, true_token, true_prob, loss\nFROM next_token\nWHERE pred_prob > 0.9 AND NOT correct\nORDER BY pred_prob DESC"],
  ["Heads that look at the token before", "SELECT source_run_id AS run_id, layer, head, avg(previous_token_mass) AS previous_token_mass, avg(entropy) AS entropy\nFROM heads\nGROUP BY ALL\nORDER BY previous_token_mass DESC"],
  ["Loss by position", "SELECT run_id, pos, avg(loss) AS loss, count(*) AS n\nFROM next_token\nGROUP BY ALL\nORDER BY run_id, pos"],
] as const;

/** What can be asked, for a page that nothing was asked of yet. */
export function Examples({ onAsk }: { onAsk: (sql: string) => void }) {
  return (
    <div className="empty">
      <p>Write SQL above (Ctrl+Enter asks), take a saved query, or begin with one of these. Rows with run_id, example_id, pos, layer or head become the selection on every page.</p>
      <ul className="examples">
        {EXAMPLES.map(([title, sql]) => (
          <li key={title}>
            <button type="button" onClick={() => onAsk(sql)}>
              {title}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
