-- About which concepts does the model answer right? Accuracy by the question's concept, the most asked about first.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
--
-- low and high bound a 95 % Wilson interval of the accuracy, as in mcq_accuracy. Of many concepts, one in twenty is outside its
-- own by chance alone.
WITH concepts AS (
    SELECT
        (e.metadata ->> '$.question_concept') AS question_concept,
        count(*) AS n,
        count(*) FILTER (q.is_correct) AS n_correct,
        avg(q.pred_prob) AS mean_confidence,
        3.841458820694124e0 AS z2,
        n_correct + z2 / 2 AS middle,
        sqrt(z2 * (n_correct * (n - n_correct) / n + z2 / 4)) AS half
    FROM mcq_predictions AS q
    JOIN examples AS e USING (run_id, example_id)
    WHERE q.run_id = getvariable('run') AND q.is_correct IS NOT NULL AND question_concept IS NOT NULL
    GROUP BY question_concept
)
SELECT
    question_concept,
    n AS questions,
    round(n_correct / n, 3) AS accuracy,
    round((middle - half) / (n + z2), 3) AS low,
    round((middle + half) / (n + z2), 3) AS high,
    round(mean_confidence, 3) AS mean_confidence
FROM concepts
ORDER BY questions DESC, accuracy DESC, question_concept
LIMIT 20;
