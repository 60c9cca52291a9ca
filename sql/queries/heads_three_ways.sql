-- Are the heads that attend, the heads that matter when cut, and the heads of the circuit the same ones?
-- run: the circuit's run
-- size: share of all edges that counts as the circuit; else .01
-- needs: circuits, circuit_nodes
--
-- score and score_rank are of the circuit (over the run's methods), edges counts those of its first that lead from the head. effect is
-- of the newest ablation of the task's heads (traces ablate TASK), induction_mass and previous_token_mass of how they attend on the
-- prompts that it ran (traces derive heads TASK). Rank 1 has the largest size, ties share their mean rank. The last three columns are
-- rank correlations (Spearman) over all heads, the same on every row. NULL: no such run, or, of induction, no token that comes twice.
WITH task AS (
    SELECT any_value(source_run_id) AS run_id, any_value(metric) AS metric
    FROM circuits
    WHERE run_id = getvariable('run')
),
ablation AS (
    SELECT e.run_id
    FROM head_effects AS e
    JOIN runs AS r ON r.run_id = e.run_id AND r.kind = 'ablation'
    WHERE e.source_run_id = (SELECT run_id FROM task) AND e.metric = (SELECT metric FROM task) AND e.head IS NOT NULL
    ORDER BY r.created_at DESC, e.run_id DESC
    LIMIT 1
),
effect AS (
    SELECT
        layer,
        head,
        arg_max(effect, abs(effect)) AS effect,
        any_value(induction_mass) AS induction_mass,
        any_value(previous_token_mass) AS previous_token_mass
    FROM head_effects
    WHERE run_id IN (SELECT run_id FROM ablation) AND metric = (SELECT metric FROM task) AND head IS NOT NULL
    GROUP BY layer, head
),
marked AS (
    SELECT
        source_kind,
        source_layer,
        source_head,
        rank <= greatest(1, round(coalesce(getvariable('size')::DOUBLE, 0.01) * count(*) OVER ())) AS is_first
    FROM circuit_edge_ensembles
    WHERE run_id = getvariable('run')
),
first_edges AS (
    SELECT source_layer AS layer, source_head AS head, count(*) FILTER (is_first) AS edges
    FROM marked
    WHERE source_kind = 'head'
    GROUP BY source_layer, source_head
),
by_head AS (
    SELECT
        n.layer,
        n.head,
        n.score,
        f.edges,
        e.effect,
        e.induction_mass,
        e.previous_token_mass
    FROM circuit_node_ensembles AS n
    LEFT JOIN first_edges AS f ON f.layer = n.layer AND f.head = n.head
    LEFT JOIN effect AS e ON e.layer = n.layer AND e.head = n.head
    WHERE n.run_id = getvariable('run') AND n.kind = 'head'
),
ranked AS (
    SELECT
        *,
        rank() OVER (ORDER BY abs(score) DESC) + (count(*) OVER (PARTITION BY abs(score)) - 1) / 2 AS score_rank,
        CASE
            WHEN effect IS NOT NULL
                THEN rank() OVER (ORDER BY abs(effect) DESC NULLS LAST) + (count(*) OVER (PARTITION BY abs(effect)) - 1) / 2
        END AS effect_rank,
        CASE
            WHEN induction_mass IS NOT NULL
                THEN
                    rank() OVER (ORDER BY induction_mass DESC NULLS LAST)
                    + (count(*) OVER (PARTITION BY induction_mass) - 1) / 2
        END AS induction_rank,
        CASE
            WHEN previous_token_mass IS NOT NULL
                THEN
                    rank() OVER (ORDER BY previous_token_mass DESC NULLS LAST)
                    + (count(*) OVER (PARTITION BY previous_token_mass) - 1) / 2
        END AS previous_token_rank
    FROM by_head
)
SELECT
    layer,
    head,
    edges,
    round(score, 4) AS score,
    round(effect, 4) AS effect,
    round(induction_mass, 3) AS induction_mass,
    round(previous_token_mass, 3) AS previous_token_mass,
    score_rank,
    effect_rank,
    induction_rank,
    previous_token_rank,
    round(nullif(corr(score_rank, effect_rank) OVER (), 'nan'::DOUBLE), 3) AS score_effect_correlation,
    round(nullif(corr(score_rank, induction_rank) OVER (), 'nan'::DOUBLE), 3) AS score_induction_correlation,
    round(nullif(corr(effect_rank, induction_rank) OVER (), 'nan'::DOUBLE), 3) AS effect_induction_correlation
FROM ranked
ORDER BY ranked.score_rank, layer, head
LIMIT 40;
