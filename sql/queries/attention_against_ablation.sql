-- Do the heads that attend like induction or previous-token heads matter, and what matters without? Where ranks disagree most.
-- run: the ablation or patching run asked about, or its task's run; of several about heads the newest
-- needs: effects, interventions
--
-- Rank 1 has the largest |effect| or mass, ties share their mean rank; of a head intervened on at several positions the largest effect
-- counts. disagreement is induction_rank - effect_rank: positive where the head matters more than it attends, negative where it attends
-- and does not matter. The last two columns are rank correlations (Spearman) over all heads, the same on every row. Masses are NULL
-- where no run tells how the heads attend (traces derive heads TASK_RUN), and induction's where no token comes twice.
WITH chosen AS (
    SELECT r.run_id
    FROM runs AS r
    WHERE
        getvariable('run') IN (r.run_id, r.parents[1])
        AND r.run_id IN (SELECT run_id FROM interventions WHERE site = 'heads')
    ORDER BY r.created_at DESC, r.run_id DESC
    LIMIT 1
),
by_head AS (
    SELECT
        side,
        layer,
        head,
        arg_max(effect, abs(effect)) AS effect,
        any_value(induction_mass) AS induction_mass,
        any_value(previous_token_mass) AS previous_token_mass
    FROM head_effects
    WHERE
        run_id IN (SELECT run_id FROM chosen)
        AND head IS NOT NULL
    GROUP BY side, layer, head
),
ranked AS (
    SELECT
        side,
        layer,
        head,
        effect,
        induction_mass,
        previous_token_mass,
        rank() OVER (ORDER BY abs(effect) DESC) + (count(*) OVER (PARTITION BY abs(effect)) - 1) / 2 AS effect_rank,
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
    round(effect, 4) AS effect,
    round(induction_mass, 3) AS induction_mass,
    round(previous_token_mass, 3) AS previous_token_mass,
    effect_rank,
    induction_rank,
    previous_token_rank,
    induction_rank - effect_rank AS disagreement,
    round(corr(effect_rank, induction_rank) OVER (), 3) AS induction_correlation,
    round(corr(effect_rank, previous_token_rank) OVER (), 3) AS previous_token_correlation
FROM ranked
ORDER BY abs(coalesce(induction_rank, previous_token_rank) - effect_rank) DESC, ranked.effect_rank, side, layer, head
LIMIT 40;
