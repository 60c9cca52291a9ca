-- Does it matter how a choice is scored? Accuracy by each score, with a 95 % bootstrap interval and what guessing gives.
-- run: the multiple-choice run asked about
-- needs: choices
--
-- letter: the logit of the choice's letter; text: the log-probability of its text; byte: the same by byte; head: the logit of
-- an encoder's multiple-choice head. The choice with the highest is the answer, the first among equals; decides says whether
-- that is the answer in mcq_predictions. n counts the questions with a key. The interval is a percentile bootstrap over
-- questions, 1,000 resamples with hash() as the seed, as in mcq_accuracy.
WITH answers AS (
    SELECT
        c.example_id,
        s.score,
        first(c.is_label ORDER BY s.value DESC, c.choice_idx) AS is_correct,
        count(*) AS n_choices
    FROM choices AS c
    JOIN runs AS r USING (run_id)
    CROSS JOIN LATERAL (
        SELECT
            unnest([CASE WHEN r.kind = 'mcq-encoder' THEN 'head' ELSE 'letter' END, 'text', 'byte']) AS score,
            unnest([c.logit, c.logprob, c.logprob_per_byte]) AS value
    ) AS s
    WHERE c.run_id = getvariable('run') AND s.value IS NOT NULL AND c.is_label IS NOT NULL
    GROUP BY c.example_id, s.score
),
counted AS (
    SELECT score, count(*) AS n, count(*) FILTER (is_correct) AS n_correct, favg(1 / n_choices) AS chance
    FROM answers
    GROUP BY score
),
resampled AS (
    SELECT
        score,
        n,
        n_correct,
        chance,
        list_sum(
            list_transform(
                range(n),
                lambda draw: CAST(hash(resample, draw) % CAST(n AS UBIGINT) < CAST(n_correct AS UBIGINT) AS BIGINT)
            )
        ) / n AS accuracy
    FROM counted
    CROSS JOIN range(1000) AS resamples (resample)
)
SELECT
    score,
    score = (SELECT any_value(score) FROM mcq_predictions WHERE run_id = getvariable('run')) AS decides,
    any_value(n) AS n,
    round(any_value(n_correct) / any_value(n), 4) AS accuracy,
    round(quantile_cont(resampled.accuracy, 0.025), 4) AS low,
    round(quantile_cont(resampled.accuracy, 0.975), 4) AS high,
    round(any_value(chance), 4) AS chance
FROM resampled
GROUP BY score
ORDER BY accuracy DESC, score;
