-- trait_best: a row is a trait in a run of vectors, with its best vector, and the grounds for the choice.
--
-- grounds says 'steering' where the trait was steered and that was judged: the vector with the largest gain is the best, the gain being
-- the mean trait score at a positive coefficient less that at coefficient 0 of the same run, among those whose mean coherence there is
-- 50 or more, if there is a gain at all; coherence is that mean. Else it says 'held-out effect size': the vector with the largest in
-- the newest evaluation. One of the residual stream is preferred to any of attn_out: it is what most runs keep.
-- effect_size and accuracy are that evaluation's, whatever the grounds; what is not known is NULL. Random vectors are never the best.
WITH evaluated AS (
    SELECT e.vectors_run_id, e.trait, e.method, e.component, e.layer, e.effect_size, e.accuracy
    FROM trait_evaluations AS e
    JOIN runs AS r USING (run_id)
    WHERE e.method <> 'random'
    QUALIFY dense_rank() OVER (PARTITION BY e.vectors_run_id, e.trait ORDER BY r.created_at DESC, e.run_id DESC) = 1
),
unsteered AS (
    SELECT run_id, trait, sum(trait_score * n_scored) / sum(n_scored) AS trait_score
    FROM steering_effects
    WHERE coefficient = 0 AND n_scored > 0
    GROUP BY run_id, trait
),
steered AS (
    SELECT
        s.vectors_run_id,
        s.trait,
        s.method,
        s.component,
        s.layer,
        s.trait_score - u.trait_score AS gain,
        s.coherence_score AS coherence
    FROM steering_effects AS s
    JOIN unsteered AS u ON u.run_id = s.run_id AND u.trait = s.trait
    WHERE s.coefficient > 0 AND s.coherence_score >= 50 AND s.trait_score > u.trait_score AND s.method <> 'random'
),
grounded AS (
    SELECT
        s.vectors_run_id,
        s.trait,
        s.method,
        s.component,
        s.layer,
        'steering' AS grounds,
        s.gain,
        s.coherence,
        e.effect_size,
        e.accuracy
    FROM steered AS s
    LEFT JOIN evaluated AS e
        ON e.vectors_run_id = s.vectors_run_id
        AND e.trait = s.trait
        AND e.method = s.method
        AND e.component = s.component
        AND e.layer IS NOT DISTINCT FROM s.layer
    UNION ALL
    SELECT
        e.vectors_run_id,
        e.trait,
        e.method,
        e.component,
        e.layer,
        'held-out effect size' AS grounds,
        NULL AS gain,
        NULL AS coherence,
        e.effect_size,
        e.accuracy
    FROM evaluated AS e
)
SELECT vectors_run_id, trait, method, component, layer, grounds, gain, coherence, effect_size, accuracy
FROM grounded
QUALIFY row_number() OVER (
    PARTITION BY vectors_run_id, trait
    ORDER BY
        grounds = 'steering' DESC,
        component = 'residual' DESC,
        gain DESC NULLS LAST,
        effect_size DESC NULLS LAST,
        accuracy DESC NULLS LAST,
        layer NULLS FIRST,
        method
) = 1
