-- Where do two runs that read the same tokens predict different next ones, the first of them more surely?
-- run: the one
-- other_run: the other
-- needs: next_token
SELECT
    a.example_id,
    a.pos,
    a.true_token,
    a.pred_token AS run_predicts,
    round(a.pred_prob, 3) AS run_prob,
    b.pred_token AS other_predicts,
    round(b.pred_prob, 3) AS other_prob,
    CASE WHEN isfinite(a.loss) OR isfinite(b.loss) THEN round(a.loss - b.loss, 2) END AS loss_difference
FROM next_token AS a
JOIN next_token AS b
    ON b.example_id = a.example_id AND b.seq = a.seq AND b.pos = a.pos AND b.true_token = a.true_token
WHERE a.run_id = getvariable('run') AND b.run_id = getvariable('other_run') AND a.pred_token <> b.pred_token
ORDER BY a.pred_prob DESC, a.example_id, a.pos
LIMIT 20;
