-- Which heads matter for a task? Each head's mean effect on the metric, the largest first, beside how it attends.
-- run: the ablation or patching run asked about, or its task's run; of several about heads the newest
-- needs: effects, interventions
--
-- effect is value - baseline, and negative where ablating the head harms; low and high are its 95 % interval over examples.
-- normalised is by clean - corrupted: -1 destroys what tells the two apart, 1 restores it. The masses are means over the prompts that
-- ran, and NULL where no run tells how the heads attend: traces derive heads TASK_RUN.
WITH chosen AS (
    SELECT r.run_id
    FROM runs AS r
    WHERE
        getvariable('run') IN (r.run_id, r.parents[1])
        AND r.run_id IN (SELECT run_id FROM interventions WHERE site = 'heads')
    ORDER BY r.created_at DESC, r.run_id DESC
    LIMIT 1
)
SELECT
    layer,
    head,
    pos,
    kind,
    direction,
    metric,
    n,
    round(effect, 4) AS effect,
    round(effect_low, 4) AS low,
    round(effect_high, 4) AS high,
    round(effect_normalised, 4) AS normalised,
    round(induction_mass, 3) AS induction_mass,
    round(previous_token_mass, 3) AS previous_token_mass,
    round(first_token_mass, 3) AS first_token_mass
FROM head_effects
WHERE run_id IN (SELECT run_id FROM chosen)
ORDER BY abs(head_effects.effect) DESC, layer, head, pos
LIMIT 20;
