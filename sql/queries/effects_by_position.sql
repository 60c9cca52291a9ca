-- At which positions does an intervention matter? At each position, the layer with the largest mean effect.
-- run: the ablation or patching run asked about, one position at a time, or its task's run; of several the newest
-- needs: effects, interventions
--
-- pos -1 is each prompt's last. effect is value - baseline, low and high its 95 % interval over examples, normalised is by clean -
-- corrupted. token is the commonest
-- there among the prompts that ran, changed the part of the pairs whose two prompts differ there. The largest of many layers is
-- partly luck where intervals are wide. All layers: the view effect_means.
WITH chosen AS (
    SELECT r.run_id
    FROM runs AS r
    WHERE
        getvariable('run') IN (r.run_id, r.parents[1])
        AND r.run_id IN (SELECT run_id FROM interventions WHERE pos IS NOT NULL)
    ORDER BY r.created_at DESC, r.run_id DESC
    LIMIT 1
),
strongest AS (
    SELECT
        run_id,
        side,
        site,
        pos,
        layer,
        head,
        kind,
        direction,
        metric,
        n,
        effect,
        effect_low,
        effect_high,
        effect_normalised
    FROM effect_means
    WHERE
        run_id IN (SELECT run_id FROM chosen)
        AND pos IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY side, site, kind, direction, metric, pos ORDER BY abs(effect) DESC, layer NULLS FIRST, head) = 1
),
standing AS (
    SELECT
        i.side,
        i.site,
        i.kind,
        i.direction,
        i.pos,
        mode(t.token) AS token,
        avg(t.changed::INTEGER) AS changed
    FROM effect_tokens AS t
    JOIN interventions AS i ON i.run_id = t.run_id AND i.intervention_id = t.intervention_id
    WHERE t.run_id IN (SELECT run_id FROM chosen)
    GROUP BY i.side, i.site, i.kind, i.direction, i.pos
)
SELECT
    s.site,
    s.kind,
    s.direction,
    s.pos,
    t.token,
    round(t.changed, 3) AS changed,
    s.layer,
    s.head,
    s.metric,
    s.n,
    round(s.effect, 4) AS effect,
    round(s.effect_low, 4) AS low,
    round(s.effect_high, 4) AS high,
    round(s.effect_normalised, 4) AS normalised
FROM strongest AS s
LEFT JOIN standing AS t
    ON t.side = s.side AND t.site = s.site AND t.kind = s.kind AND t.direction IS NOT DISTINCT FROM s.direction AND t.pos = s.pos
ORDER BY s.side, s.site, s.kind, s.direction, s.pos;
