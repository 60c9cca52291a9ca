-- Which single tokens surprised the model most, and what did it expect instead?
-- run: the run asked about
-- needs: next_token
--
-- Where sequences begin with a BOS (--prepend-bos), a text's first token is among them, which nothing could tell; where they don't, it
-- has no prediction, and the second is predicted from it alone.
WITH chosen AS (
    SELECT example_id, seq, pos, loss, true_token, pred_token, pred_prob, true_rank
    FROM next_token
    WHERE run_id = getvariable('run')
    ORDER BY loss DESC, example_id, seq, pos
    LIMIT 20
)
SELECT
    round(p.loss, 2) AS loss,
    p.true_token,
    p.pred_token,
    round(p.pred_prob, 3) AS pred_prob,
    p.true_rank,
    t.text[greatest(t.char_end - 60, 1) : t.char_end] AS before,
    p.example_id,
    p.pos
FROM chosen AS p
JOIN token_texts AS t USING (example_id, seq, pos)
WHERE t.run_id = getvariable('run') AND t.side = 'dec'
ORDER BY p.loss DESC, p.example_id, p.seq, p.pos;
