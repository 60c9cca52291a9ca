-- influences: a row is a source token of an explained prediction, with its influence by every measure that was taken.
WITH measured AS (
    SELECT run_id, source_run_id, example_id, seq, pos, source_pos, measure, value
    FROM influence
    UNION ALL
    SELECT run_id, source_run_id, example_id, seq, pos, source_pos, 'logit' AS measure, logit AS value
    FROM logit_parts
    WHERE source_pos IS NOT NULL
),
by_source AS (
    SELECT
        run_id,
        source_run_id,
        example_id,
        seq,
        pos,
        source_pos,
        sum(value) FILTER (measure = 'logit') AS logit,
        any_value(value) FILTER (measure = 'ifr') AS ifr,
        any_value(value) FILTER (measure = 'value-norm') AS value_norm,
        any_value(value) FILTER (measure = 'occlusion') AS occlusion
    FROM measured
    GROUP BY run_id, source_run_id, example_id, seq, pos, source_pos
)
SELECT
    b.run_id,
    b.source_run_id,
    b.example_id,
    b.seq,
    b.pos,
    p.target_id,
    p.target_token,
    p.against_id,
    p.against_token,
    b.source_pos,
    t.token_id AS source_id,  -- Id of the source token
    t.token AS source_token,  -- The source token, decoded on its own
    b.logit,  -- What heads read from it, and for the explained position its embedding, add to the logit (difference): sum of logit_parts
    b.ifr,  -- Its share of information flow: all sum to 1; NULL: not measured
    b.value_norm,  -- Its share by attention weighted by the norms of what is read: all sum to 1; NULL: not measured
    b.occlusion  -- The logit (difference) less that with the token's embedding replaced; NULL: not measured
FROM by_source AS b
JOIN influence_targets AS p
    ON p.run_id = b.run_id
    AND p.source_run_id = b.source_run_id
    AND p.example_id = b.example_id
    AND p.seq = b.seq
    AND p.pos = b.pos
LEFT JOIN (SELECT run_id, example_id, seq, pos, token_id, token FROM tokens WHERE side = 'dec') AS t
    ON t.run_id = b.source_run_id AND t.example_id = b.example_id AND t.seq = b.seq AND t.pos = b.source_pos
