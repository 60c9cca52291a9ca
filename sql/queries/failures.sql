-- Where did an evaluated model fail, and how sure was this model of the answers? The worst scores first, with loss and entropy (nats).
-- run: the run over the log of the evaluation
-- needs: evaluations, next_token
--
-- A row is a score of a sequence that says wrong, or whose value is below 0.5 where it does not say. Means are over the tokens of the
-- response, of a chat those that the assistant says, or over all that are predicted where there is no response; the model that reads need not be the one that answered.
WITH failed AS (
    SELECT example_id, seq, scorer, metric, value, score, target, answer, answered_by
    FROM scored_sequences
    WHERE run_id = getvariable('run') AND NOT coalesce(is_correct, value >= 0.5) AND scorer <> 'loglikelihood'
),
read_so AS (
    SELECT
        p.example_id,
        p.seq,
        avg(p.loss) FILTER (t.is_response OR (t.role = 'assistant' AND t.part IS NOT NULL)) AS response_loss,
        avg(p.entropy) FILTER (t.is_response OR (t.role = 'assistant' AND t.part IS NOT NULL)) AS response_entropy,
        coalesce(response_loss, avg(p.loss)) AS loss,
        coalesce(response_entropy, avg(p.entropy)) AS entropy
    FROM next_token AS p
    JOIN tokens AS t ON t.run_id = p.run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos + 1
    WHERE p.run_id = getvariable('run') AND t.side = 'dec'
    GROUP BY p.example_id, p.seq
)
SELECT
    f.example_id,
    f.seq,
    f.scorer,
    f.metric,
    f.score,
    f.target,
    f.answer,
    f.answered_by,
    round(r.loss, 3) AS mean_loss,
    round(r.entropy, 3) AS mean_entropy
FROM failed AS f
LEFT JOIN read_so AS r USING (example_id, seq)
ORDER BY f.value, f.example_id, f.seq, f.scorer, f.metric
LIMIT 20;
