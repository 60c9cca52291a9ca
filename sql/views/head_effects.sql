-- head_effects: a row is a head that was intervened on and a metric: its mean effect beside how it attends on the same prompts.
--
-- How it attends is of the newest run that tells of the task's heads: the task's own, captured with heads, or a run of kind heads.
WITH newest AS (
    SELECT t.source_run_id, arg_max(t.run_id, (r.created_at, t.run_id)) AS run_id
    FROM (SELECT DISTINCT run_id, source_run_id FROM heads) AS t
    JOIN runs AS r ON r.run_id = t.run_id
    GROUP BY t.source_run_id
),
prompts_run AS (
    SELECT DISTINCT run_id, source_run_id, example_id, seq
    FROM effects
),
attention AS (
    SELECT
        p.run_id,
        p.source_run_id,
        p.seq,
        h.side,
        h.layer,
        h.head,
        avg(h.induction_mass) AS induction_mass,
        avg(h.previous_token_mass) AS previous_token_mass,
        avg(h.first_token_mass) AS first_token_mass,
        avg(h.entropy) AS entropy
    FROM prompts_run AS p
    JOIN newest AS n ON n.source_run_id = p.source_run_id
    JOIN heads AS h
        ON h.run_id = n.run_id AND h.source_run_id = p.source_run_id AND h.example_id = p.example_id AND h.seq = p.seq
    GROUP BY p.run_id, p.source_run_id, p.seq, h.side, h.layer, h.head
)
SELECT
    e.run_id,
    e.source_run_id,
    e.intervention_id,
    e.spec,
    e.side,
    e.layer,
    e.head,
    e.pos,
    e.kind,
    e.direction,
    e.seq,
    e.metric,
    e.is_default,
    e.n,
    e.effect,
    e.effect_low,
    e.effect_high,
    e.effect_normalised,
    e.baseline,
    e.value,
    a.induction_mass,  -- Mean of heads.induction_mass over the prompts that ran; NULL: no rows of heads, or no token comes twice
    a.previous_token_mass,  -- Mean of heads.previous_token_mass over them; NULL: no rows of heads
    a.first_token_mass,  -- Mean of heads.first_token_mass over them; NULL: no rows of heads
    a.entropy  -- Mean of heads.entropy over them, nats; NULL: no rows of heads
FROM effect_means AS e
LEFT JOIN attention AS a
    ON a.run_id = e.run_id
    AND a.source_run_id = e.source_run_id
    AND a.seq = e.seq
    AND a.side = e.side
    AND a.layer = e.layer
    AND a.head = e.head
WHERE e.site = 'heads'
