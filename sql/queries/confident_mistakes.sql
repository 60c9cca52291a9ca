-- Where was the model surest and wrong?
-- run: the run asked about
-- needs: next_token
WITH chosen AS (
    SELECT example_id, seq, pos, pred_prob, pred_token, true_token, true_prob, true_rank
    FROM next_token
    WHERE run_id = getvariable('run') AND NOT correct
    ORDER BY pred_prob DESC, example_id, seq, pos
    LIMIT 20
)
SELECT
    round(p.pred_prob, 3) AS pred_prob,
    p.pred_token,
    p.true_token,
    round(p.true_prob, 5) AS true_prob,
    p.true_rank,
    t.text[greatest(t.char_end - 60, 1) : t.char_end] AS before,
    p.example_id,
    p.pos
FROM chosen AS p
JOIN token_texts AS t USING (example_id, seq, pos)
WHERE t.run_id = getvariable('run') AND t.side = 'dec'
ORDER BY p.pred_prob DESC, p.example_id, p.seq, p.pos;
