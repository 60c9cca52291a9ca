-- Do ways to score edges and nodes agree? The methods of a run, two at a time.
-- run: the circuits' run
-- needs: circuit_nodes
--
-- spearman is of their ranks by size of the score, pearson of the scores themselves, which a few large ones rule. iou is what both have
-- among the first (1 % of the edges, 10 % of the nodes) by what either has there, and chance what two random choices would have, on
-- average about. random is the floor. NULL: fewer than two, or all alike.
WITH things AS (
    SELECT
        method,
        'edges' AS what,
        0.01 AS share,
        concat_ws(' ', source_kind, source_layer, source_head, '>', sink_kind, sink_layer, sink_head, port) AS name,
        score,
        rank
    FROM circuit_edge_means
    WHERE run_id = getvariable('run')
    UNION ALL
    SELECT method, 'nodes', 0.1, concat_ws(' ', kind, layer, head), score, rank
    FROM circuit_node_means
    WHERE run_id = getvariable('run')
),
ranked AS (
    SELECT
        *,
        rank <= greatest(1, round(share * count(*) OVER (PARTITION BY method, what))) AS is_first
    FROM things
),
compared AS (
    SELECT
        a.what,
        a.method,
        b.method AS other_method,
        count(*) AS n,
        nullif(corr(a.rank, b.rank), 'nan'::DOUBLE) AS spearman,
        nullif(corr(a.score, b.score), 'nan'::DOUBLE) AS pearson,
        count(*) FILTER (a.is_first AND b.is_first) / nullif(count(*) FILTER (a.is_first OR b.is_first), 0) AS iou,
        count(*) FILTER (a.is_first)::DOUBLE * count(*) FILTER (b.is_first) / count(*) AS expected,
        count(*) FILTER (a.is_first) + count(*) FILTER (b.is_first) AS summed
    FROM ranked AS a
    JOIN ranked AS b ON b.what = a.what AND b.name = a.name AND b.method > a.method
    GROUP BY a.what, a.method, b.method
)
SELECT
    what,
    method,
    other_method,
    n,
    round(spearman, 3) AS spearman,
    round(pearson, 3) AS pearson,
    round(iou, 3) AS iou,
    round(expected / nullif(summed - expected, 0), 3) AS chance
FROM compared
ORDER BY what, method, other_method;
