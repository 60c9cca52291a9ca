-- What is left of a component's effect when it is ablated in another way? Zero, mean and resample side by side, the largest first.
-- run (task): the task's run
-- needs: effects
--
-- Mean effects, value - baseline, of the newest ablation of each kind. head NULL is a whole block. Kinds ask different questions: zero
-- also takes away what the component always adds, mean leaves that, resample puts in what it does on the corrupted prompt.
-- How well they agree: the saved query ablation_kinds_agreement.
WITH newest AS (
    SELECT e.run_id, e.side, e.site, e.layer, e.head, e.pos, e.kind, e.metric, e.is_default, e.n, e.effect
    FROM effect_means AS e
    JOIN runs AS r ON r.run_id = e.run_id AND r.kind = 'ablation'
    WHERE
        e.source_run_id = getvariable('run')
    QUALIFY
        row_number() OVER (
            PARTITION BY e.side, e.site, e.layer, e.head, e.pos, e.kind, e.metric ORDER BY r.created_at DESC, e.run_id DESC
        ) = 1
)
SELECT
    site,
    layer,
    head,
    pos,
    metric,
    min(n) AS n,
    round(any_value(effect) FILTER (kind = 'zero'), 4) AS zero,
    round(any_value(effect) FILTER (kind = 'mean'), 4) AS mean,
    round(any_value(effect) FILTER (kind = 'resample'), 4) AS resample
FROM newest
GROUP BY side, site, layer, head, pos, metric
ORDER BY bool_or(is_default) DESC NULLS LAST, max(abs(effect)) DESC, side, site, layer, head, pos
LIMIT 40;
