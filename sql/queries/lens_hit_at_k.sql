-- How early is the next token among the likeliest? By layer: how often it is the first, or among the first 5 or 10.
-- run: the run asked about, or its lens; of several lenses the newest
-- needs: logit_lens
--
-- Over the tokens that have a next one; layer NULL is the embedding. Entropy and kl_to_final are means, in nats, over the same.
WITH lens AS (
    SELECT l.run_id
    FROM (SELECT DISTINCT run_id, source_run_id FROM logit_lens) AS l
    JOIN runs AS r USING (run_id)
    WHERE getvariable('run') IN (l.run_id, l.source_run_id)
    ORDER BY r.created_at DESC, l.run_id
    LIMIT 1
)
SELECT
    layer,
    count(*) AS tokens,
    round(avg(CAST(actual_rank <= 1 AS INTEGER)), 4) AS hit_at_1,
    round(avg(CAST(actual_rank <= 5 AS INTEGER)), 4) AS hit_at_5,
    round(avg(CAST(actual_rank <= 10 AS INTEGER)), 4) AS hit_at_10,
    CAST(median(actual_rank) AS INTEGER) AS median_rank,
    round(avg(entropy), 3) AS entropy,
    round(avg(kl_to_final), 3) AS kl_to_final
FROM logit_lens
JOIN lens USING (run_id)
WHERE actual_rank IS NOT NULL
GROUP BY layer
ORDER BY layer NULLS FIRST;
