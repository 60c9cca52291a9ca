-- How early is the next token among the likeliest? By layer: how often it is the first, or among the first 5 or 10.
-- run: the run asked about, or its lens; of several lenses the newest
-- needs: logit_lens
--
-- Over the tokens that have a next one; layer NULL is the embedding. Entropy and kl_to_final are means, in nats, over the same.
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
WHERE run_id IN (SELECT lens_run_id FROM lens_runs WHERE run_id = getvariable('run')) AND actual_rank IS NOT NULL
GROUP BY layer
ORDER BY layer NULLS FIRST;
