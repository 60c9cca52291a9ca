-- Is this model surer of right answers than of wrong ones? Loss and entropy (nats) over the response, by what each scorer said of it.
-- run: the run over the log of the evaluation
-- needs: evaluations, next_token
--
-- A mean over sequences of each one's own mean, as response_losses has it, so that long answers count no more than short ones. Scores
-- that say neither right nor wrong are left out.
SELECT
    v.task,
    v.scorer,
    v.metric,
    v.is_correct,
    count(*) AS sequences,
    round(avg(s.loss), 3) AS mean_loss,
    round(avg(s.entropy), 3) AS mean_entropy
FROM scored_sequences AS v
JOIN response_losses AS s USING (run_id, example_id, seq)
WHERE v.run_id = getvariable('run') AND v.is_correct IS NOT NULL
GROUP BY v.task, v.scorer, v.metric, v.is_correct
ORDER BY v.task, v.scorer, v.metric, v.is_correct;
