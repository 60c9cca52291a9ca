-- From which layer on does the model's final prediction stay first? Tokens by the depth at which they were decided.
-- run: the run asked about, or its lens; of several lenses the newest
-- needs: logit_lens
--
-- A token is decided at the first layer from which on every layer of the lens predicts what the last one predicts; a lens of
-- all layers is exact, another sees the layers that it has. decided counts those at this layer, decided_by those up to it, as a
-- part of all; layer NULL is the embedding. lens_ranks has it token by token.
-- Tokens of one text resemble each other: these parts are of the texts in the run, and of others only as far as those are like them.
WITH tops AS (
    SELECT
        example_id,
        seq,
        pos,
        coalesce(layer, -1) AS depth,
        actual_rank,
        entropy,
        topk_ids[1] = last_value(topk_ids[1]) OVER whole AS is_final
    FROM logit_lens AS l
    JOIN lens_runs AS n ON n.lens_run_id = l.run_id AND n.run_id = getvariable('run')
    WINDOW whole AS (
        PARTITION BY example_id, seq, pos ORDER BY layer NULLS FIRST
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
),
decided AS (
    SELECT
        example_id,
        seq,
        pos,
        min(depth) FILTER (depth > coalesce(last_other, -2)) AS depth,
        arg_max(actual_rank, depth) AS final_rank,
        arg_max(entropy, depth) AS final_entropy
    FROM (
        SELECT
            example_id,
            seq,
            pos,
            depth,
            actual_rank,
            entropy,
            max(depth) FILTER (NOT is_final) OVER (PARTITION BY example_id, seq, pos) AS last_other
        FROM tops
    )
    GROUP BY example_id, seq, pos
)
SELECT
    nullif(depth, -1) AS layer,
    count(*) AS decided,
    round(count(*) / sum(count(*)) OVER (), 4) AS part,
    round(sum(count(*)) OVER (ORDER BY depth) / sum(count(*)) OVER (), 4) AS decided_by,
    round(avg(CAST(final_rank = 1 AS INTEGER)), 3) AS accuracy,
    round(avg(final_entropy), 3) AS final_entropy
FROM decided
GROUP BY depth
ORDER BY depth;
