-- From which layer on does the model's final prediction stay first? Tokens by the depth at which they were decided.
-- run: the run asked about, or its lens; of several lenses the newest
-- needs: logit_lens
--
-- A token is decided at the first layer from which on every layer of the lens predicts what the last one predicts; a lens of
-- all layers is exact, another sees the layers that it has. decided counts those at this layer, decided_by those up to it, as a
-- part of all; layer NULL is the embedding. lens_ranks has it token by token.
-- Tokens of one text resemble each other: these parts are of the texts in the run, and of others only as far as those are like them.
WITH by_token AS (
    SELECT
        list({'depth': coalesce(layer, -1), 'id': topk_ids[1]}) AS tops,
        arg_max_null(topk_ids[1], coalesce(layer, -1)) AS final_id,
        arg_max(actual_rank, coalesce(layer, -1)) AS final_rank,
        arg_max(entropy, coalesce(layer, -1)) AS final_entropy
    FROM logit_lens
    WHERE run_id IN (SELECT lens_run_id FROM lens_runs WHERE run_id = getvariable('run'))
    GROUP BY example_id, seq, pos
),
with_other AS (
    SELECT
        [top.depth FOR top IN tops] AS depths,
        coalesce(list_max([top.depth FOR top IN tops IF top.id <> final_id]), -2) AS last_other,
        final_rank,
        final_entropy
    FROM by_token
),
decided AS (
    SELECT list_min([depth FOR depth IN depths IF depth > last_other]) AS depth, final_rank, final_entropy
    FROM with_other
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
