-- Which single tokens surprised the model most, and what did it expect instead?
-- run: the run asked about
-- needs: next_token
--
-- Where sequences begin with a BOS (--prepend-bos), a text's first token is among them, which nothing could tell; where they don't, it
-- has no prediction, and the second is predicted from it alone.
SELECT
    round(p.loss, 2) AS loss,
    p.true_token,
    p.pred_token,
    round(p.pred_prob, 3) AS pred_prob,
    p.true_rank,
    coalesce(s.text, e.text)[greatest(t.char_end - 60, 1) : t.char_end] AS before,
    p.example_id,
    p.pos
FROM next_token AS p
JOIN tokens AS t USING (run_id, example_id, seq, pos)
JOIN examples AS e USING (run_id, example_id)
LEFT JOIN prompts AS s USING (run_id, example_id, seq)
WHERE p.run_id = getvariable('run') AND t.side = 'dec'
ORDER BY p.loss DESC
LIMIT 20;
