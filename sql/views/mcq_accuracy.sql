-- mcq_accuracy: a row is a multiple-choice run, with the part of its questions that it got right.
--
-- All numbers but n_questions are over the questions that have a key: a run without one has n = 0 and NULL. The interval is
-- Wilson's (Wilson 1927; Brown, Cai and DasGupta 2001), which has a width also where all or none are right; z2 is the square of the
-- normal distribution's 97.5 % quantile.
WITH keyed AS (
    SELECT
        q.run_id,
        q.score,
        count(*) AS n_questions,
        count(q.is_correct) AS n,
        nullif(n, 0) AS known,
        count(*) FILTER (q.is_correct) AS n_correct,
        favg(1 / c.n_choices) FILTER (q.is_correct IS NOT NULL) AS chance,
        avg(q.pred_prob) FILTER (q.is_correct IS NOT NULL) AS mean_confidence,
        3.841458820694124e0 AS z2,
        n_correct + z2 / 2 AS middle,
        sqrt(z2 * (n_correct * (known - n_correct) / known + z2 / 4)) AS half
    FROM mcq_predictions AS q
    LEFT JOIN (
        SELECT run_id, example_id, count(*) AS n_choices
        FROM choices
        GROUP BY run_id, example_id
    ) AS c USING (run_id, example_id)
    GROUP BY q.run_id, q.score
)
SELECT
    k.run_id,
    r.kind,
    r.model,
    r.dataset,
    r.split,
    k.score,
    k.n_questions,  -- Questions that were read, with a key or without
    k.n,  -- Questions that have a key
    k.n_correct / k.known AS accuracy,  -- Part of those that it got right, 0 to 1
    round((k.middle - k.half) / (k.known + k.z2), 9) AS low,  -- Lower end of the 95 % interval of accuracy, over questions
    round((k.middle + k.half) / (k.known + k.z2), 9) AS high,  -- Upper end
    round(k.chance, 9) AS chance,  -- What guessing would get right: the mean of 1 / number of choices
    k.mean_confidence,  -- Mean of pred_prob: the accuracy, if the model were calibrated
    r.untrained
FROM keyed AS k
JOIN runs AS r USING (run_id)
