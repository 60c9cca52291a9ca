-- From which layer on does the model know what comes, role by role? The rank that each layer gives the tokens that are said in a chat.
-- run: the run asked about, or its lens; of several lenses the newest
-- needs: messages, logit_lens
--
-- A row of the lens is about the token after it: it counts for the role that says that token. layer NULL is the embedding.
SELECT
    t.role,
    l.layer,
    count(*) AS tokens,
    median(l.actual_rank) AS median_rank,
    round(avg(CAST(l.actual_rank = 1 AS INTEGER)), 3) AS first,
    round(avg(l.actual_prob), 4) AS mean_prob
FROM logit_lens AS l
JOIN chat_tokens AS t
    ON t.run_id = l.source_run_id AND t.example_id = l.example_id AND t.seq = l.seq AND t.pos = l.pos + 1
WHERE
    l.run_id IN (SELECT lens_run_id FROM lens_runs WHERE run_id = getvariable('run'))
    AND t.part IS NOT NULL
    AND l.actual_rank IS NOT NULL
GROUP BY t.role, l.layer
ORDER BY t.role, l.layer NULLS FIRST;
