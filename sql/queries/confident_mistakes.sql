-- Where was the model surest and wrong?
-- run: the run asked about
-- needs: next_token
SELECT
    round(p.pred_prob, 3) AS pred_prob,
    p.pred_token,
    p.true_token,
    round(p.true_prob, 5) AS true_prob,
    p.true_rank,
    coalesce(s.text, e.text)[greatest(t.char_end - 60, 1) : t.char_end] AS before,
    p.example_id,
    p.pos
FROM next_token AS p
JOIN tokens AS t USING (run_id, example_id, seq, pos)
JOIN examples AS e USING (run_id, example_id)
LEFT JOIN prompts AS s USING (run_id, example_id, seq)
WHERE p.run_id = getvariable('run') AND t.side = 'dec' AND NOT p.correct
ORDER BY p.pred_prob DESC, p.example_id, p.pos
LIMIT 20;
