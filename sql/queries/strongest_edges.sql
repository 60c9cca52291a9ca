-- Through which heads did which tokens reach a prediction? The strongest edges of its dependency graph, those of the residual stream apart.
-- run: the influence run asked about, or the run that it explains; of several the newest
-- example: the example, by its id or the beginning of it; the first one if not set
-- needs: token_edges
--
-- flow is the part of the prediction that comes over the edge, by information flow routes; share the part of what stands at pos after
-- that layer's attention. Edges into the first token are those of the attention sink.
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
    e.example_id,
    e.seq,
    e.target_pos,
    e.layer,
    e.head,
    e.source_pos,
    s.token AS source,
    e.pos,
    t.token,
    round(e.share, 4) AS share,
    round(e.flow, 4) AS flow
FROM token_edges AS e
LEFT JOIN (SELECT run_id, example_id, seq, pos, token FROM tokens WHERE side = 'dec') AS s
    ON s.run_id = e.source_run_id AND s.example_id = e.example_id AND s.seq = e.seq AND s.pos = e.source_pos
LEFT JOIN (SELECT run_id, example_id, seq, pos, token FROM tokens WHERE side = 'dec') AS t
    ON t.run_id = e.source_run_id AND t.example_id = e.example_id AND t.seq = e.seq AND t.pos = e.pos
WHERE
    e.run_id IN (SELECT run_id FROM chosen)
    AND e.head IS NOT NULL
    AND e.example_id = (
        SELECT min(g.example_id)
        FROM token_edges AS g
        WHERE
            g.run_id IN (SELECT run_id FROM chosen)
            AND starts_with(g.example_id, coalesce(getvariable('example'), ''))
    )
ORDER BY e.flow DESC, e.seq, e.target_pos, e.layer, e.head, e.pos, e.source_pos
LIMIT 40;
