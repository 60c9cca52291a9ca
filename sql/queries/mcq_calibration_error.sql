-- One number for calibration on questions: expected calibration error over ten bins (Guo et al. 2017), for every run.
-- needs: mcq_predictions
--
-- With few questions to a bin it is above 0 for a calibrated model too, for it adds gaps up whatever their sign: compare runs over
-- the same questions, and see mcq_calibration for each bin's interval.
WITH bins AS (
    SELECT
        run_id,
        least(floor(pred_prob::DOUBLE * 10), 9) AS bin,
        count(*) AS n,
        abs(avg(CAST(is_correct AS INTEGER)) - avg(pred_prob)) AS gap
    FROM mcq_predictions
    WHERE is_correct IS NOT NULL
    GROUP BY run_id, bin
)
SELECT
    run_id,
    sum(n)::BIGINT AS questions,
    round(sum(n * gap) / sum(n), 4) AS expected_calibration_error,
    round(max(gap), 4) AS worst_bin
FROM bins
GROUP BY run_id
ORDER BY expected_calibration_error, run_id;
