-- Is the model as often right about a question as it is sure? Probability of its choice against accuracy, in ten bins.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
--
-- low and high bound a 95 % Wilson interval of the accuracy, as in mcq_accuracy: a gap is shown where mean_prob is outside it.
WITH bins AS (
    SELECT
        least(floor(pred_prob::DOUBLE * 10), 9) / 10 AS from_prob,
        count(*) AS n,
        count(*) FILTER (is_correct) AS n_correct,
        avg(pred_prob) AS mean_prob,
        3.841458820694124e0 AS z2,
        n_correct + z2 / 2 AS middle,
        sqrt(z2 * (n_correct * (n - n_correct) / n + z2 / 4)) AS half
    FROM mcq_predictions
    WHERE run_id = getvariable('run') AND is_correct IS NOT NULL
    GROUP BY from_prob
)
SELECT
    from_prob,
    n AS questions,
    round(mean_prob, 3) AS mean_prob,
    round(n_correct / n, 3) AS accuracy,
    round((middle - half) / (n + z2), 3) AS low,
    round((middle + half) / (n + z2), 3) AS high,
    round(n_correct / n - mean_prob, 3) AS gap
FROM bins
ORDER BY from_prob;
