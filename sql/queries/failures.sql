-- Where did an evaluated model fail, and how sure was this model of the answers? The worst scores first, with loss and entropy (nats).
-- run: the run over the log of the evaluation
-- needs: evaluations, next_token
--
-- A row is a score of a sequence that says wrong, or whose value is below 0.5 where it does not say. Means are those of response_losses;
-- the model that reads need not be the one that answered.
SELECT
    v.example_id,
    v.seq,
    v.scorer,
    v.metric,
    v.score,
    v.target,
    v.answer,
    v.answered_by,
    round(r.loss, 3) AS mean_loss,
    round(r.entropy, 3) AS mean_entropy
FROM scored_sequences AS v
LEFT JOIN response_losses AS r USING (run_id, example_id, seq)
WHERE v.run_id = getvariable('run') AND NOT coalesce(v.is_correct, v.value >= 0.5) AND v.scorer <> 'loglikelihood'
ORDER BY v.value, v.example_id, v.seq, v.scorer, v.metric
LIMIT 20;
