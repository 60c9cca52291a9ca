-- Is the first token of a word harder than the rest of it?
-- run: the run asked about
-- needs: next_token
--
-- A text's first token, which starts a word, has a prediction only where sequences begin with a BOS (--prepend-bos).
SELECT
    CASE WHEN after.word_idx IS DISTINCT FROM here.word_idx THEN 'starts a word' ELSE 'goes on with one' END AS true_token_is,
    count(*) AS predictions,
    round(avg(p.loss), 3) AS mean_loss,
    round(exp(avg(p.loss)), 2) AS perplexity,
    round(avg(CAST(p.correct AS INTEGER)), 3) AS accuracy
FROM next_token AS p
JOIN tokens AS here USING (run_id, example_id, seq, pos)
JOIN (
    SELECT run_id, example_id, seq, pos - 1 AS pos, word_idx
    FROM tokens
    WHERE side = 'dec'
) AS after USING (run_id, example_id, seq, pos)
WHERE p.run_id = getvariable('run') AND here.side = 'dec'
GROUP BY true_token_is
ORDER BY true_token_is;
