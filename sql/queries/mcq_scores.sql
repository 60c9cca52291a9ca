-- Does it matter how a choice is scored? Accuracy by each score, with a 95 % Wilson interval and what guessing gives.
-- run: the multiple-choice run asked about
-- needs: choices
--
-- letter: the logit of the choice's letter; text: the log-probability of its text; byte: the same by byte; head: the logit of
-- an encoder's multiple-choice head. The choice with the highest is the answer, the first among equals; decides says whether
-- that is the answer in mcq_predictions. n counts the questions with a key. low and high are as in mcq_accuracy. The
-- scores are of the same questions: intervals that overlap don't say that two scores are alike.
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
    SELECT
        score,
        count(*) AS n,
        count(*) FILTER (is_correct) AS n_correct,
        favg(1 / n_choices) AS chance,
        3.841458820694124e0 AS z2,
        n_correct + z2 / 2 AS middle,
        sqrt(z2 * (n_correct * (n - n_correct) / n + z2 / 4)) AS half
    FROM answers
    GROUP BY score
)
SELECT
    score,
    score = (SELECT any_value(score) FROM mcq_predictions WHERE run_id = getvariable('run')) AS decides,
    n,
    round(n_correct / n, 4) AS accuracy,
    round((middle - half) / (n + z2), 4) AS low,
    round((middle + half) / (n + z2), 4) AS high,
    round(chance, 4) AS chance
FROM counted
ORDER BY accuracy DESC, score;
