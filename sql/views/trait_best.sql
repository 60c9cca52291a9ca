-- trait_best: a row is a trait in a run of vectors, with its best vector, and the grounds for the choice.
--
-- grounds says 'steering' where the trait was steered and that was judged: the vector with the largest gain is the best, among those
-- whose mean coherence there is 50 or more, if there is a gain at all. It is the largest of several, on the questions that were steered:
-- expect less of it on others. Else grounds says 'cross-validated effect size': the vector with the largest cv_effect_size in the newest
-- evaluation, which is of training questions alone, so that accuracy, effect_size, above_random and their intervals, of the held-out
-- questions, are unbiased. Evaluations of schema version 6 and before have none:
-- there it says 'held-out effect size', and those numbers are the better for the choice, their intervals too narrow.
-- A vector that blocks give to the residual stream is preferred to any of the embedding (layer NULL), which tells of the tokens and not of
-- what the model makes of them, and that to any of attn_out, which few runs keep. The numbers beside the grounds are that evaluation's, and NULL where they are not known. Random vectors are never the best.
WITH evaluated AS (
    SELECT
        e.vectors_run_id,
        e.trait,
        e.method,
        e.component,
        e.layer,
        e.cv_effect_size,
        e.effect_size,
        e.effect_size_low,
        e.effect_size_high,
        e.accuracy,
        e.accuracy_low,
        e.accuracy_high,
        e.above_random,
        e.above_random_low,
        e.above_random_high
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
        s.coherence_score AS coherence,
        s.n_scored
    FROM steering_effects AS s
    JOIN unsteered AS u ON u.run_id = s.run_id AND u.trait = s.trait
    WHERE s.coefficient > 0 AND s.coherence_score >= 50 AND s.trait_score > u.trait_score AND s.method <> 'random'
    QUALIFY row_number() OVER (
        PARTITION BY s.vectors_run_id, s.trait, s.method, s.component, s.layer ORDER BY gain DESC, s.coefficient, s.run_id
    ) = 1
),
grounded AS (
    SELECT
        coalesce(s.vectors_run_id, e.vectors_run_id) AS vectors_run_id,
        coalesce(s.trait, e.trait) AS trait,
        coalesce(s.method, e.method) AS method,
        coalesce(s.component, e.component) AS component,
        coalesce(s.layer, e.layer) AS layer,
        CASE
            WHEN s.gain IS NOT NULL THEN 'steering'
            WHEN e.cv_effect_size IS NOT NULL THEN 'cross-validated effect size'
            ELSE 'held-out effect size'
        END AS grounds,
        s.gain,
        s.coherence,
        s.n_scored,
        e.cv_effect_size,
        e.effect_size,
        e.effect_size_low,
        e.effect_size_high,
        e.accuracy,
        e.accuracy_low,
        e.accuracy_high,
        e.above_random,
        e.above_random_low,
        e.above_random_high
    FROM steered AS s
    FULL JOIN evaluated AS e
        ON e.vectors_run_id = s.vectors_run_id
        AND e.trait = s.trait
        AND e.method = s.method
        AND e.component = s.component
        AND e.layer IS NOT DISTINCT FROM s.layer
),
placed AS (
    SELECT
        row_number() OVER (
            PARTITION BY vectors_run_id, trait
            ORDER BY
                grounds = 'steering' DESC,
                gain DESC NULLS LAST,
                cv_effect_size DESC NULLS LAST,
                effect_size DESC NULLS LAST,
                accuracy DESC NULLS LAST,
                component = 'residual' DESC,
                layer NULLS FIRST,
                method
        ) AS place,
        *
    FROM grounded
)
SELECT
    vectors_run_id,
    trait,
    method,
    component,
    layer,
    grounds,  -- Why it is the best: 'steering', 'cross-validated effect size' or 'held-out effect size'
    place - 1 AS passed_over,  -- Vectors that do better by the same grounds, but are of the embedding or of attn_out
    gain,  -- Mean trait score at a positive coefficient less that at coefficient 0 of the same run, 0 to 100; NULL: not steered, or no gain
    coherence,  -- Mean coherence of the responses at that coefficient, 0 to 100
    n_scored,  -- Responses that the trait score is a mean of
    cv_effect_size,
    effect_size,  -- Cohen's d of the held-out responses' cosines with the vector, positive less negative
    effect_size_low,
    effect_size_high,
    accuracy,  -- Part of the held-out responses on the right side of the training midpoint
    accuracy_low,
    accuracy_high,
    above_random,
    above_random_low,
    above_random_high
FROM placed
QUALIFY row_number() OVER (
    PARTITION BY vectors_run_id, trait
    ORDER BY grounds = 'steering' DESC, component = 'residual' DESC, layer IS NOT NULL DESC, place
) = 1
