-- Do two tasks share their circuits? Edges and heads that two circuits have in common, against what chance would give.
-- run: the run of a circuit
-- other_run: that of another, of the same model
-- size: share of all edges that counts as the circuit; else .01
-- needs: circuit_edges
--
-- Of each circuit the first edges by size of the score, those that lead nowhere among them, and the heads that they lead from. iou is
-- what both have by what either has (intersection over union); chance is what two random choices as large would have, on average about.
WITH ranked AS (
    SELECT
        e.*,
        e.rank <= greatest(1, round(coalesce(getvariable('size')::DOUBLE, 0.01) * count(*) OVER methods)) AS is_first
    FROM circuit_edge_means AS e
    WHERE e.run_id IN (getvariable('run'), getvariable('other_run')) AND e.method <> 'random'
    WINDOW methods AS (PARTITION BY e.run_id, e.method)
),
things AS (
    SELECT
        run_id,
        method,
        'edges' AS what,
        concat_ws(' ', source_kind, source_layer, source_head, '>', sink_kind, sink_layer, sink_head, port) AS name,
        is_first
    FROM ranked
    UNION ALL
    SELECT run_id, method, 'heads', concat_ws(' ', source_layer, source_head), bool_or(is_first)
    FROM ranked
    WHERE source_kind = 'head'
    GROUP BY run_id, method, source_layer, source_head
),
compared AS (
    SELECT
        a.method,
        b.method AS other_method,
        a.what,
        count(*) AS total,
        count(*) FILTER (a.is_first) AS n,
        count(*) FILTER (b.is_first) AS other_n,
        count(*) FILTER (a.is_first AND b.is_first) AS shared,
        count(*) FILTER (a.is_first)::DOUBLE * count(*) FILTER (b.is_first) / count(*) AS expected
    FROM things AS a
    JOIN things AS b ON b.what = a.what AND b.name = a.name
    WHERE a.run_id = getvariable('run') AND b.run_id = getvariable('other_run')
    GROUP BY a.method, b.method, a.what
)
SELECT
    method,
    other_method,
    what,
    total,
    n,
    other_n,
    shared,
    round(shared / nullif(n + other_n - shared, 0), 3) AS iou,
    round(expected / nullif(n + other_n - expected, 0), 3) AS chance
FROM compared
ORDER BY method, other_method, what;
