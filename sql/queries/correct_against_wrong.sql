-- Is the model surer where it is right than where it is wrong? Margin, entropy, top-two gap and confidence, with effect sizes.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
--
-- Cohen's d is the difference of the two means by the pooled standard deviation (Cohen 1988, section 2.5); Cliff's delta is
-- P(right > wrong) - P(right < wrong) over all pairs of a right and a wrong question (Cliff 1993). The difference and d have a
-- 95 % percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13) from 10,000 resamples, drawn with replacement within the
-- right and within the wrong questions; hash() is the seed. Delta has the closed form of Feng and Cliff (2004), from the
-- variance over both kinds of questions. Questions without a key are left out, and those all of
-- whose other choices the model rules out (an infinite margin); of fewer than two right or wrong ones there is no interval. The four rows are of the same questions: they are not four findings.
WITH keyed AS (
    SELECT
        is_correct,
        margin::DOUBLE AS margin,
        entropy::DOUBLE AS entropy,
        top_two_gap::DOUBLE AS top_two_gap,
        pred_prob::DOUBLE AS pred_prob,
        row_number() OVER (PARTITION BY is_correct ORDER BY example_id) - 1 AS place,
        count(*) OVER (PARTITION BY is_correct) AS n
    FROM mcq_predictions
    WHERE run_id = getvariable('run') AND is_correct IS NOT NULL AND isfinite(margin)
),
-- Resample -1 is the questions themselves, each once: what is estimated from the others is the spread around it.
drawn AS (
    SELECT d.resample, k.is_correct, k.n, k.margin, k.entropy, k.top_two_gap, k.pred_prob
    FROM (
        SELECT resample, is_correct, hash(resample, is_correct, draw) % n::UBIGINT AS place
        FROM (SELECT DISTINCT is_correct, n FROM keyed) AS sizes
        CROSS JOIN range(10000) AS resamples (resample)
        CROSS JOIN LATERAL range(n) AS draws (draw)
        WHERE n > 1
    ) AS d
    JOIN keyed AS k ON k.is_correct = d.is_correct AND k.place = d.place
    UNION ALL
    SELECT -1, is_correct, n, margin, entropy, top_two_gap, pred_prob
    FROM keyed
),
moments AS (
    SELECT
        resample,
        is_correct,
        any_value(n) AS n,
        unnest(['margin', 'entropy', 'top_two_gap', 'pred_prob']) AS measure,
        unnest([avg(margin), avg(entropy), avg(top_two_gap), avg(pred_prob)]) AS mean,
        unnest([var_pop(margin), var_pop(entropy), var_pop(top_two_gap), var_pop(pred_prob)]) AS variance
    FROM drawn
    GROUP BY resample, is_correct
),
differences AS (
    SELECT
        resample,
        measure,
        any_value(n) FILTER (is_correct) AS n_right,
        any_value(n) FILTER (NOT is_correct) AS n_wrong,
        any_value(mean) FILTER (is_correct) AS mean_right,
        any_value(mean) FILTER (NOT is_correct) AS mean_wrong,
        mean_right - mean_wrong AS difference,
        difference / nullif(sqrt(sum(n * variance) / nullif(n_right + n_wrong - 2, 0)), 0) AS d
    FROM moments
    GROUP BY resample, measure
),
-- dominance: the part of the other kind's questions that have less, less the part that have more.
ranked AS (
    SELECT
        measure,
        is_correct,
        n,
        count(*) FILTER (is_correct) OVER tied AS right_tied,
        count(*) FILTER (NOT is_correct) OVER tied AS wrong_tied,
        count(*) FILTER (is_correct) OVER up_to AS right_up_to,
        count(*) FILTER (NOT is_correct) OVER up_to AS wrong_up_to,
        count(*) OVER (PARTITION BY measure) - n AS others,
        CASE WHEN is_correct THEN wrong_tied ELSE right_tied END AS others_tied,
        CASE WHEN is_correct THEN wrong_up_to ELSE right_up_to END AS others_up_to,
        (2 * others_up_to - others_tied - others) / nullif(others, 0) AS dominance
    FROM (
        SELECT
            is_correct,
            n,
            unnest(['margin', 'entropy', 'top_two_gap', 'pred_prob']) AS measure,
            unnest([margin, entropy, top_two_gap, pred_prob]) AS value
        FROM keyed
    ) AS by_measure
    WINDOW
        tied AS (PARTITION BY measure, value),
        up_to AS (PARTITION BY measure ORDER BY value)
),
deltas AS (
    SELECT
        measure,
        count(*) FILTER (is_correct) AS rights,
        count(*) FILTER (NOT is_correct) AS wrongs,
        rights * wrongs AS pairs,
        avg(dominance) FILTER (is_correct) AS delta,
        1 - delta * delta AS off,
        pairs * off - sum(others_tied) FILTER (is_correct) AS within_pairs,
        wrongs * pairs * var_pop(dominance) FILTER (is_correct)
        + rights * pairs * var_pop(dominance) FILTER (NOT is_correct) AS of_questions,
        greatest(
            (of_questions - within_pairs) / nullif(pairs * (rights - 1) * (wrongs - 1), 0), off / nullif(pairs - 1, 0)
        ) AS variance,
        3.841458820694124e0 AS z2,
        sqrt(z2 * variance * (off * off + z2 * variance)) AS half,
        -- Where every right one has more, or every one less, than any wrong one, there is no variance to go by.
        CASE
            WHEN off > 0 THEN (delta * off - half) / (off + z2 * variance)
            WHEN delta > 0 THEN (least(rights, wrongs) - z2) / (least(rights, wrongs) + z2)
            ELSE delta
        END AS low,
        CASE
            WHEN off > 0 THEN (delta * off + half) / (off + z2 * variance)
            WHEN delta < 0 THEN (z2 - least(rights, wrongs)) / (least(rights, wrongs) + z2)
            ELSE delta
        END AS high
    FROM ranked
    GROUP BY measure
)
SELECT
    measure,
    coalesce(any_value(n_right) FILTER (resample = -1), 0) AS n_right,
    coalesce(any_value(n_wrong) FILTER (resample = -1), 0) AS n_wrong,
    round(any_value(mean_right) FILTER (resample = -1), 6) AS right_mean,
    round(any_value(mean_wrong) FILTER (resample = -1), 6) AS wrong_mean,
    round(any_value(difference) FILTER (resample = -1), 6) AS difference,
    round(quantile_cont(difference, 0.025) FILTER (resample >= 0), 6) AS difference_low,
    round(quantile_cont(difference, 0.975) FILTER (resample >= 0), 6) AS difference_high,
    round(any_value(d) FILTER (resample = -1), 4) AS cohens_d,
    round(quantile_cont(d, 0.025) FILTER (resample >= 0), 4) AS d_low,
    round(quantile_cont(d, 0.975) FILTER (resample >= 0), 4) AS d_high,
    round(any_value(delta), 4) AS cliffs_delta,
    round(any_value(CASE WHEN least(rights, wrongs) > 1 THEN low END), 4) AS delta_low,
    round(any_value(CASE WHEN least(rights, wrongs) > 1 THEN high END), 4) AS delta_high
FROM differences
JOIN deltas USING (measure)
GROUP BY measure
ORDER BY list_position(['margin', 'entropy', 'top_two_gap', 'pred_prob'], measure);
