-- Is the model as often right as it is sure? Predicted probability against accuracy, in ten bins.
-- run: the run asked about
-- needs: next_token
SELECT
    least(floor(pred_prob::DOUBLE * 10), 9) / 10 AS from_prob,
    count(*) AS predictions,
    round(avg(pred_prob), 3) AS mean_prob,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy,
    round(avg(CAST(correct AS INTEGER)) - avg(pred_prob), 3) AS gap
FROM next_token
WHERE run_id = getvariable('run')
GROUP BY from_prob
ORDER BY from_prob;
