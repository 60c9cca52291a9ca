-- mcq_accuracy: a row is a multiple-choice run, with the part of its questions that it got right.
--
-- n is the number of its n_questions that have a key, and all else is over those: a run over questions without one has n = 0
-- and NULL. low and high bound a 95 % percentile bootstrap interval over questions (Efron and Tibshirani 1993, ch. 13) from
-- 1,000 resamples. A resample draws n questions with replacement: hash(resample, draw) % n, and since only right and wrong
-- count, the questions below n_correct are the right ones. The hash is the seed: the same interval every time.
-- chance is what guessing would get right, the mean of 1 / number of choices; mean_confidence the mean of pred_prob, which is
-- the accuracy of a calibrated model.
WITH keyed AS (
    SELECT
        q.run_id,
        q.score,
        count(*) AS n_questions,
        count(q.is_correct) AS n,
        count(*) FILTER (q.is_correct) AS n_correct,
        favg(1 / c.n_choices) FILTER (q.is_correct IS NOT NULL) AS chance,
        avg(q.pred_prob) FILTER (q.is_correct IS NOT NULL) AS mean_confidence
    FROM mcq_predictions AS q
    LEFT JOIN (
        SELECT run_id, example_id, count(*) AS n_choices
        FROM choices
        GROUP BY run_id, example_id
    ) AS c USING (run_id, example_id)
    GROUP BY q.run_id, q.score
),
resampled AS (
    SELECT
        run_id,
        score,
        n_questions,
        n,
        n_correct,
        chance,
        mean_confidence,
        list_sum(
            list_transform(
                range(n),
                lambda draw: CAST(hash(resample, draw) % CAST(n AS UBIGINT) < CAST(n_correct AS UBIGINT) AS BIGINT)
            )
        ) / n AS accuracy
    FROM keyed
    CROSS JOIN range(1000) AS resamples (resample)
)
SELECT
    s.run_id,
    any_value(r.kind) AS kind,
    any_value(r.model) AS model,
    any_value(r.dataset) AS dataset,
    any_value(r.split) AS split,
    any_value(s.score) AS score,
    any_value(s.n_questions) AS n_questions,
    any_value(s.n) AS n,
    any_value(CASE WHEN s.n > 0 THEN s.n_correct / s.n END) AS accuracy,
    quantile_cont(s.accuracy, 0.025) AS low,
    quantile_cont(s.accuracy, 0.975) AS high,
    any_value(round(s.chance, 9)) AS chance,
    any_value(s.mean_confidence) AS mean_confidence,
    any_value(r.untrained) AS untrained
FROM resampled AS s
JOIN runs AS r USING (run_id)
GROUP BY s.run_id
