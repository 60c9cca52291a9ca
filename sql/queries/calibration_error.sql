-- One number for calibration: expected calibration error over ten bins (Guo et al. 2017), for every run.
-- needs: next_token
WITH bins AS (
    SELECT
        run_id,
        least(floor(pred_prob::DOUBLE * 10), 9) AS bin,
        count(*) AS n,
        abs(avg(CAST(correct AS INTEGER)) - avg(pred_prob)) AS gap
    FROM next_token
    GROUP BY run_id, bin
)
SELECT
    run_id,
    round(sum(n * gap) / sum(n), 4) AS expected_calibration_error,
    round(max(gap), 4) AS worst_bin
FROM bins
GROUP BY run_id
ORDER BY expected_calibration_error;
