-- recurring_edges: a row is an edge of the dependency graphs of several prompts, whose explained predictions are made from one position.
--
-- Prompts are compared position by position, which says something where they are made alike. What stands after the explained
-- position has no part in it. Of a task's pairs, clean and corrupted prompts are kept apart.
WITH explained AS (
    SELECT t.run_id, t.source_run_id, t.example_id, t.seq, t.pos, p.role
    FROM influence_targets AS t
    SEMI JOIN (SELECT DISTINCT run_id, source_run_id, example_id, seq, target_pos AS pos FROM token_edges) AS g
        ON g.run_id = t.run_id
        AND g.source_run_id = t.source_run_id
        AND g.example_id = t.example_id
        AND g.seq = t.seq
        AND g.pos = t.pos
    LEFT JOIN task_pairs AS p ON p.run_id = t.source_run_id AND p.example_id = t.example_id AND p.seq = t.seq
),
sets AS (
    SELECT run_id, source_run_id, role, pos, count(*) AS n_prompts
    FROM explained
    GROUP BY run_id, source_run_id, role, pos
),
edges AS (
    SELECT
        e.run_id,
        e.source_run_id,
        x.role,
        e.target_pos,
        e.layer,
        e.head,
        e.pos,
        e.source_pos,
        count(*) AS n,
        sum(e.flow) AS total,
        sum(e.flow * e.flow) AS squares
    FROM token_edges AS e
    JOIN explained AS x
        ON x.run_id = e.run_id
        AND x.source_run_id = e.source_run_id
        AND x.example_id = e.example_id
        AND x.seq = e.seq
        AND x.pos = e.target_pos
    GROUP BY e.run_id, e.source_run_id, x.role, e.target_pos, e.layer, e.head, e.pos, e.source_pos
),
counted AS (
    SELECT
        e.run_id,
        e.source_run_id,
        e.role,
        e.target_pos,
        e.layer,
        e.head,
        e.pos,
        e.source_pos,
        e.n,
        s.n_prompts,
        e.n / s.n_prompts AS frequency,
        e.total / s.n_prompts AS flow,
        3.841458820694124e0 AS z2,
        1.96 * sqrt(greatest(e.squares - s.n_prompts * flow * flow, 0) / nullif(s.n_prompts - 1, 0) / s.n_prompts) AS half
    FROM edges AS e
    JOIN sets AS s
        ON s.run_id = e.run_id
        AND s.source_run_id = e.source_run_id
        AND s.role IS NOT DISTINCT FROM e.role
        AND s.pos = e.target_pos
)
SELECT
    run_id,
    source_run_id,
    role,  -- clean or corrupted, of a task's pairs; NULL: not a task
    target_pos,
    layer,
    head,
    pos,
    source_pos,
    n_prompts,  -- Prompts whose prediction at that position is explained by a graph
    n,  -- Prompts in whose graph the edge is: its flow there is at least what graphs keep
    frequency,  -- n / n_prompts
    (n + z2 / 2 - sqrt(z2 * (n * (1 - frequency) + z2 / 4))) / (n_prompts + z2) AS frequency_low,  -- Lower end of its 95 % interval over prompts: Wilson's
    (n + z2 / 2 + sqrt(z2 * (n * (1 - frequency) + z2 / 4))) / (n_prompts + z2) AS frequency_high,  -- Upper end
    flow,  -- Mean flow over all these prompts, 0 where the edge was left out
    flow - half AS flow_low,  -- Lower end of its 95 % interval over prompts, mean - 1.96 sd / sqrt(n_prompts); NULL: one prompt
    flow + half AS flow_high  -- Upper end
FROM counted
