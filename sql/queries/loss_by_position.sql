-- Does the model predict better the more it has read? Mean loss (nats) and accuracy by position.
-- run: the run asked about
-- needs: next_token
--
-- A prediction stands at the position that it is made from: pos 0 has read one token. Where sequences begin with a BOS
-- (traces runs show; --prepend-bos), that is the BOS, and the prediction there is of a text's first token. Without one, it is
-- the text's first token, which has no prediction itself, and which the model may never have read in that place: what it
-- predicts there can be far worse than anywhere else. With --stride, the sequences after a text's first have no predictions in
-- the part that they read again.
SELECT
    CASE WHEN pos < 16 THEN pos ELSE CAST(pow(2, floor(log2(pos))) AS INTEGER) END AS from_pos,
    count(*) AS predictions,
    round(avg(loss), 3) AS mean_loss,
    round(exp(avg(loss)), 2) AS perplexity,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy
FROM next_token
WHERE run_id = getvariable('run')
GROUP BY from_pos
ORDER BY from_pos;
