-- Does the model know when it does not know? Mean loss by the entropy of its prediction, both in nats.
-- run: the run asked about
-- needs: next_token
SELECT
    floor(entropy) AS entropy_from,
    count(*) AS predictions,
    round(avg(entropy), 3) AS mean_entropy,
    round(avg(loss), 3) AS mean_loss,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy
FROM next_token
WHERE run_id = getvariable('run')
GROUP BY entropy_from
ORDER BY entropy_from;
