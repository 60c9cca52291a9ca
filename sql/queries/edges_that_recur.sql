-- Which edges of the dependency graphs recur over a set of prompts made alike? How often and how strong, with intervals.
-- run: the influence run asked about, or the run that it explains; of several the newest
-- needs: token_edges
--
-- Of the prompts explained at the same position, clean and corrupted ones of a task apart. frequency is the part of them in whose graph
-- the edge is, flow its mean over all of them; both with 95 % intervals. Edges of the residual stream are left out.
WITH chosen AS (
    SELECT r.run_id
    FROM runs AS r
    WHERE
        getvariable('run') IN (r.run_id, r.parents[1])
        AND list_contains(r.tables, 'token_edges')
    ORDER BY r.created_at DESC, r.run_id DESC
    LIMIT 1
)
SELECT
    role,
    target_pos,
    layer,
    head,
    source_pos,
    pos,
    n,
    n_prompts,
    round(frequency, 3) AS frequency,
    round(frequency_low, 3) AS frequency_low,
    round(frequency_high, 3) AS frequency_high,
    round(flow, 4) AS flow,
    round(flow_low, 4) AS flow_low,
    round(flow_high, 4) AS flow_high
FROM recurring_edges AS e
WHERE run_id IN (SELECT run_id FROM chosen) AND head IS NOT NULL
ORDER BY n_prompts DESC, e.flow DESC, role, target_pos, layer, head, source_pos, pos
LIMIT 40;
