-- How good are estimated scores? Their correlation with exact patching, for heads, MLPs and edges.
-- run: the circuits' run
-- needs: circuit_nodes
--
-- Over what was patched too: by --verify (the strongest and some random ones), or all that the method exact of the run scores. pearson is
-- ruled by the few large effects, spearman by the many small ones; same_sign is the share that helps or harms by both. NULL: fewer
-- than two, or all alike.
WITH things AS (
    SELECT method, kind AS what, concat_ws(' ', kind, layer, head) AS name, score, exact_effect
    FROM circuit_node_means
    WHERE run_id = getvariable('run')
    UNION ALL
    SELECT
        method,
        'edge',
        concat_ws(' ', source_kind, source_layer, source_head, '>', sink_kind, sink_layer, sink_head, port),
        score,
        exact_effect
    FROM circuit_edge_means
    WHERE run_id = getvariable('run')
),
compared AS (
    SELECT
        t.method,
        t.what,
        t.score,
        coalesce(t.exact_effect, x.score) AS effect
    FROM things AS t
    LEFT JOIN things AS x ON x.method = 'exact' AND x.name = t.name
    WHERE t.method <> 'exact'
),
ranked AS (
    SELECT
        *,
        rank() OVER (PARTITION BY method, what ORDER BY score)
        + (count(*) OVER (PARTITION BY method, what, score) - 1) / 2 AS score_rank,
        rank() OVER (PARTITION BY method, what ORDER BY effect)
        + (count(*) OVER (PARTITION BY method, what, effect) - 1) / 2 AS effect_rank
    FROM compared
    WHERE score IS NOT NULL AND effect IS NOT NULL
)
SELECT
    method,
    what,
    count(*) AS n,
    round(nullif(corr(score, effect), 'nan'::DOUBLE), 3) AS pearson,
    round(nullif(corr(score_rank, effect_rank), 'nan'::DOUBLE), 3) AS spearman,
    round(avg((sign(score) = sign(effect))::INTEGER), 3) AS same_sign
FROM ranked
GROUP BY method, what
ORDER BY method, what;
