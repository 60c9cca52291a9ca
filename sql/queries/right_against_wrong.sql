-- Is this model surer of right answers than of wrong ones? Loss and entropy (nats) over the response, by what each scorer said of it.
-- run: the run over the log of the evaluation
-- needs: evaluations, next_token
--
-- A mean over sequences of each one's own mean over the tokens of its response, so that long answers count no more than short ones;
-- of a chat of what the assistant says; over all that are predicted where there is no response. Scores that say neither right nor wrong are left out.
WITH by_sequence AS (
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
    v.task,
    v.scorer,
    v.metric,
    v.is_correct,
    count(*) AS sequences,
    round(avg(s.loss), 3) AS mean_loss,
    round(avg(s.entropy), 3) AS mean_entropy
FROM scored_sequences AS v
JOIN by_sequence AS s USING (example_id, seq)
WHERE v.run_id = getvariable('run') AND v.is_correct IS NOT NULL
GROUP BY v.task, v.scorer, v.metric, v.is_correct
ORDER BY v.task, v.scorer, v.metric, v.is_correct;
