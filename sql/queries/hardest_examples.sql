-- Which examples did the model find hardest? Perplexity per token, of those with at least ten predictions.
-- run: the run asked about
-- needs: next_token
--
-- Over the tokens that have a prediction: a text's first has one only where sequences begin with a BOS (--prepend-bos), and is then the
-- dearest of all, which short texts show most.
SELECT
    p.example_id,
    count(*) AS predictions,
    round(avg(p.loss), 3) AS mean_loss,
    round(exp(avg(p.loss)), 1) AS perplexity,
    round(avg(CAST(p.correct AS INTEGER)), 3) AS accuracy,
    any_value(e.text)[:80] AS text
FROM next_token AS p
JOIN examples AS e USING (run_id, example_id)
WHERE p.run_id = getvariable('run')
GROUP BY p.example_id
HAVING count(*) >= 10
ORDER BY mean_loss DESC, p.example_id
LIMIT 20;
