-- Is the model surer where it is right than where it is wrong? Margin, entropy, top-two gap and confidence, with effect sizes.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
--
-- Cohen's d is the difference of the two means by the pooled standard deviation (Cohen 1988, section 2.5); Cliff's delta is
-- P(right > wrong) - P(right < wrong) over all pairs of a right and a wrong question (Cliff 1993). Each has a 95 % percentile
-- bootstrap interval (Efron and Tibshirani 1993, ch. 13) from 1,000 resamples, drawn with replacement within the right and
-- within the wrong questions; hash() is the seed. Questions without a key are left out.
-- Measures have numbers, 0 to 3, until the last step: the largest step sorts by them, and a number sorts faster than a name.
WITH measured AS (
    SELECT
        u.measure,
        q.is_correct,
        u.value::DOUBLE AS value,
        -- From the least of its group on: equal values then have a variance of exactly 0, and not of rounding errors.
        u.value::DOUBLE - min(u.value::DOUBLE) OVER (PARTITION BY u.measure, q.is_correct) AS above_least,
        row_number() OVER (PARTITION BY u.measure, q.is_correct ORDER BY q.example_id) - 1 AS place,
        dense_rank() OVER (PARTITION BY u.measure ORDER BY u.value) AS value_rank
    FROM mcq_predictions AS q
    CROSS JOIN LATERAL (
        SELECT
            unnest([0, 1, 2, 3]) AS measure,
            unnest([q.margin, q.entropy, q.top_two_gap, q.pred_prob]) AS value
    ) AS u
    WHERE q.run_id = getvariable('run') AND q.is_correct IS NOT NULL
),
groups AS (
    SELECT is_correct, count(*) AS n
    FROM measured
    WHERE measure = 0
    GROUP BY is_correct
),
-- Resample -1 is the questions themselves, each once: what is estimated from the others is the spread around it.
drawn AS (
    SELECT resample, is_correct, hash(resample, is_correct, draw) % n::UBIGINT AS place, count(*)::DOUBLE AS times
    FROM groups
    CROSS JOIN range(1000) AS resamples (resample)
    CROSS JOIN LATERAL range(n) AS draws (draw)
    GROUP BY resample, is_correct, place
    UNION ALL
    SELECT -1, is_correct, unnest(range(n)), 1
    FROM groups
),
moments AS (
    SELECT
        d.resample,
        m.measure,
        sum(d.times) FILTER (m.is_correct) AS n_right,
        sum(d.times) FILTER (NOT m.is_correct) AS n_wrong,
        sum(d.times * m.value) FILTER (m.is_correct) AS sum_right,
        sum(d.times * m.value) FILTER (NOT m.is_correct) AS sum_wrong,
        sum(d.times * m.above_least) FILTER (m.is_correct) AS above_right,
        sum(d.times * m.above_least) FILTER (NOT m.is_correct) AS above_wrong,
        sum(d.times * m.above_least * m.above_least) FILTER (m.is_correct) AS squares_right,
        sum(d.times * m.above_least * m.above_least) FILTER (NOT m.is_correct) AS squares_wrong
    FROM drawn AS d
    JOIN measured AS m ON m.is_correct = d.is_correct AND m.place = d.place
    GROUP BY d.resample, m.measure
),
pairs AS (
    -- Pairs in which the right one has at least as much, less those in which the wrong one has: ties go out.
    SELECT
        resample,
        measure,
        sum(CASE WHEN is_correct THEN times * wrong_up_to ELSE -times * right_up_to END) AS more_less_fewer
    FROM (
        SELECT
            d.resample,
            m.measure,
            m.is_correct,
            d.times,
            sum(CASE WHEN m.is_correct THEN 0 ELSE d.times END) OVER up_to AS wrong_up_to,
            sum(CASE WHEN m.is_correct THEN d.times ELSE 0 END) OVER up_to AS right_up_to
        FROM drawn AS d
        JOIN measured AS m ON m.is_correct = d.is_correct AND m.place = d.place
        WINDOW up_to AS (PARTITION BY d.resample * 4 + m.measure ORDER BY m.value_rank)
    ) AS drawn_values
    GROUP BY resample, measure
),
effects AS (
    SELECT
        resample,
        measure,
        n_right,
        n_wrong,
        sum_right / n_right AS mean_right,
        sum_wrong / n_wrong AS mean_wrong,
        mean_right - mean_wrong AS difference,
        squares_right - above_right * above_right / n_right
        + squares_wrong - above_wrong * above_wrong / n_wrong AS deviations,
        CASE
            WHEN deviations > 1e-12 * (squares_right + squares_wrong)
                THEN difference / sqrt(deviations / (n_right + n_wrong - 2))
        END AS d,
        more_less_fewer / (n_right * n_wrong) AS delta
    FROM moments
    JOIN pairs USING (resample, measure)
)
SELECT
    ['margin', 'entropy', 'top_two_gap', 'pred_prob'][effects.measure + 1] AS measure,
    coalesce(any_value(n_right), 0)::BIGINT AS n_right,
    coalesce(any_value(n_wrong), 0)::BIGINT AS n_wrong,
    round(any_value(mean_right) FILTER (resample = -1), 6) AS right_mean,
    round(any_value(mean_wrong) FILTER (resample = -1), 6) AS wrong_mean,
    round(any_value(difference) FILTER (resample = -1), 6) AS difference,
    round(quantile_cont(difference, 0.025) FILTER (resample >= 0), 6) AS difference_low,
    round(quantile_cont(difference, 0.975) FILTER (resample >= 0), 6) AS difference_high,
    round(any_value(d) FILTER (resample = -1), 4) AS cohens_d,
    round(quantile_cont(d, 0.025) FILTER (resample >= 0), 4) AS d_low,
    round(quantile_cont(d, 0.975) FILTER (resample >= 0), 4) AS d_high,
    round(any_value(delta) FILTER (resample = -1), 4) AS cliffs_delta,
    round(quantile_cont(delta, 0.025) FILTER (resample >= 0), 4) AS delta_low,
    round(quantile_cont(delta, 0.975) FILTER (resample >= 0), 4) AS delta_high
FROM effects
GROUP BY effects.measure
ORDER BY effects.measure;
