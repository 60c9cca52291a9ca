-- How does the next token rise through the layers? Its rank layer by layer, for the tokens of an example.
-- run: the run asked about, or its lens; of several lenses the newest
-- example: the example, by its id or the beginning of it; the first one if not set
-- needs: logit_lens
--
-- ranks has one rank a layer, in their order, the embedding first where the lens has it; 1 is the likeliest. decided_at is the first
-- layer from which on every layer predicts what the last one predicts, which is prediction; NULL is the embedding.
WITH asked AS (
    SELECT min(example_id) AS example_id
    FROM logit_lens
    WHERE
        run_id IN (SELECT lens_run_id FROM lens_runs WHERE run_id = getvariable('run'))
        AND starts_with(example_id, coalesce(getvariable('example'), ''))
),
chosen AS (
    SELECT
        source_run_id,
        example_id,
        seq,
        pos,
        coalesce(layer, -1) AS depth,
        actual_token,
        actual_rank,
        actual_prob,
        topk_tokens[1] AS first_token,
        topk_ids[1] = last_value(topk_ids[1]) OVER whole AS is_final
    FROM logit_lens
    WHERE
        run_id IN (SELECT lens_run_id FROM lens_runs WHERE run_id = getvariable('run'))
        AND example_id IN (SELECT example_id FROM asked)
    WINDOW whole AS (
        PARTITION BY example_id, seq, pos ORDER BY layer NULLS FIRST
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
),
with_other AS (
    SELECT
        source_run_id,
        example_id,
        seq,
        pos,
        depth,
        actual_token,
        actual_rank,
        actual_prob,
        first_token,
        max(depth) FILTER (NOT is_final) OVER (PARTITION BY example_id, seq, pos) AS last_other
    FROM chosen
)
SELECT
    c.seq,
    c.pos,
    any_value(t.token) AS token,
    any_value(c.actual_token) AS next_token,
    arg_max(c.first_token, c.depth) AS prediction,
    nullif(min(c.depth) FILTER (c.depth > coalesce(c.last_other, -2)), -1) AS decided_at,
    arg_max(c.actual_rank, c.depth) AS final_rank,
    round(arg_max(c.actual_prob, c.depth), 4) AS final_prob,
    list(c.actual_rank ORDER BY c.depth) AS ranks
FROM with_other AS c
LEFT JOIN (
    SELECT run_id, seq, pos, token
    FROM tokens
    WHERE example_id IN (SELECT example_id FROM asked) AND side = 'dec'
) AS t ON t.run_id = c.source_run_id AND t.seq = c.seq AND t.pos = c.pos
GROUP BY c.seq, c.pos
ORDER BY c.seq, c.pos;
