-- Is the model as often right about a question as it is sure? Probability of its choice against accuracy, in ten bins.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
SELECT
    least(floor(pred_prob::DOUBLE * 10), 9) / 10 AS from_prob,
    count(*) AS questions,
    round(avg(pred_prob), 3) AS mean_prob,
    round(avg(CAST(is_correct AS INTEGER)), 3) AS accuracy,
    round(avg(CAST(is_correct AS INTEGER)) - avg(pred_prob), 3) AS gap
FROM mcq_predictions
WHERE run_id = getvariable('run') AND is_correct IS NOT NULL
GROUP BY from_prob
ORDER BY from_prob;
