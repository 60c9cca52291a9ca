-- Do kinds of ablation agree on what matters? Correlations of their mean effects over the same components.
-- run (task): the task's run
-- needs: effects
--
-- Of the newest ablation of each kind, site by site. pearson is of the effects, which a few large ones rule; spearman of their ranks by
-- size and sign, which the many small ones rule. NULL: fewer than two components, or all alike.
WITH newest AS (
    SELECT e.side, e.site, e.layer, e.head, e.pos, e.kind, e.metric, e.effect
    FROM effect_means AS e
    JOIN runs AS r ON r.run_id = e.run_id AND r.kind = 'ablation'
    WHERE
        e.source_run_id = getvariable('run')
    QUALIFY
        row_number() OVER (
            PARTITION BY e.side, e.site, e.layer, e.head, e.pos, e.kind, e.metric ORDER BY r.created_at DESC, e.run_id DESC
        ) = 1
),
paired AS (
    SELECT
        a.side,
        a.site,
        a.metric,
        a.kind,
        b.kind AS other_kind,
        a.effect,
        b.effect AS other_effect,
        rank() OVER (PARTITION BY a.side, a.site, a.metric, a.kind, b.kind ORDER BY a.effect)
        + (count(*) OVER (PARTITION BY a.side, a.site, a.metric, a.kind, b.kind, a.effect) - 1) / 2 AS place,
        rank() OVER (PARTITION BY a.side, a.site, a.metric, a.kind, b.kind ORDER BY b.effect)
        + (count(*) OVER (PARTITION BY a.side, a.site, a.metric, a.kind, b.kind, b.effect) - 1) / 2 AS other_place
    FROM newest AS a
    JOIN newest AS b
        ON b.side = a.side
        AND b.site = a.site
        AND b.metric = a.metric
        AND b.layer IS NOT DISTINCT FROM a.layer
        AND b.head IS NOT DISTINCT FROM a.head
        AND b.pos IS NOT DISTINCT FROM a.pos
        AND b.kind > a.kind
)
SELECT
    site,
    metric,
    kind,
    other_kind,
    count(*) AS components,
    round(corr(effect, other_effect), 3) AS pearson,
    round(corr(place, other_place), 3) AS spearman
FROM paired
GROUP BY side, site, metric, kind, other_kind
ORDER BY side, site, metric, kind, other_kind;
