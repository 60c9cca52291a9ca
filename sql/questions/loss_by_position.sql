-- Does the model predict better the more it has read? Mean loss (nats) and accuracy by position.
-- run: the run asked about
-- needs: next_token
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
