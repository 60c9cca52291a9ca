-- Which examples did the model find hardest? Perplexity per token, of those with at least ten predictions.
-- run: the run asked about
-- needs: next_token
--
-- Over the tokens that have a prediction: a text's first has one only where sequences begin with a BOS (--prepend-bos), and is then the
-- dearest of all, which short texts show most.
WITH chosen AS (
    SELECT
        example_id,
        count(*) AS predictions,
        avg(loss) AS loss,
        avg(CAST(correct AS INTEGER)) AS accuracy
    FROM next_token
    WHERE run_id = getvariable('run')
    GROUP BY example_id
    HAVING count(*) >= 10
    ORDER BY round(avg(loss), 3) DESC, example_id
    LIMIT 20
)
SELECT
    p.example_id,
    p.predictions,
    round(p.loss, 3) AS mean_loss,
    round(exp(p.loss), 1) AS perplexity,
    round(p.accuracy, 3) AS accuracy,
    e.text[:80] AS text
FROM chosen AS p
JOIN examples AS e USING (example_id)
WHERE e.run_id = getvariable('run')
ORDER BY mean_loss DESC, p.example_id;
