-- About which concepts does the model answer right? Accuracy by the question's concept, the most asked about first.
-- run: the multiple-choice run asked about
-- needs: mcq_predictions
SELECT
    (e.metadata ->> '$.question_concept') AS question_concept,
    count(*) AS questions,
    round(avg(CAST(q.is_correct AS INTEGER)), 3) AS accuracy,
    round(avg(q.pred_prob), 3) AS mean_confidence
FROM mcq_predictions AS q
JOIN examples AS e USING (run_id, example_id)
WHERE q.run_id = getvariable('run') AND q.is_correct IS NOT NULL AND question_concept IS NOT NULL
GROUP BY question_concept
ORDER BY questions DESC, accuracy DESC, question_concept
LIMIT 20;
