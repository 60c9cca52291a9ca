-- On which examples, read by both runs, do two runs differ most in mean loss?
-- run: the one
-- other_run: the other
-- needs: next_token
WITH by_example AS (
    SELECT run_id, example_id, avg(loss) AS mean_loss, count(*) AS predictions
    FROM next_token
    WHERE run_id IN (getvariable('run'), getvariable('other_run'))
    GROUP BY run_id, example_id
)
SELECT
    a.example_id,
    round(a.mean_loss, 3) AS run_loss,
    round(b.mean_loss, 3) AS other_loss,
    round(a.mean_loss - b.mean_loss, 3) AS difference,
    a.predictions AS run_predictions,
    b.predictions AS other_predictions,
    e.text[:60] AS text
FROM by_example AS a
JOIN by_example AS b ON b.example_id = a.example_id AND b.run_id = getvariable('other_run')
JOIN examples AS e ON e.run_id = a.run_id AND e.example_id = a.example_id
WHERE a.run_id = getvariable('run')
ORDER BY abs(a.mean_loss - b.mean_loss) DESC, a.example_id
LIMIT 20;
