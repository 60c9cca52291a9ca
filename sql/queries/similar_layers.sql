-- How alike are two models layer by layer, and which layer of the other is each one most like?
-- run (comparison): the comparison
-- needs: layer_similarity
--
-- cka and procrustes are of the layer of the same number, with 95 % intervals; chance is what procrustes comes to between unrelated states.
-- best_layer is the layer of the other model with the highest CKA. NULL is the embedding that the first layer reads.
SELECT
    layer,
    round(max(CASE WHEN is_same THEN cka END), 4) AS cka,
    round(max(CASE WHEN is_same THEN cka_low END), 4) AS cka_low,
    round(max(CASE WHEN is_same THEN cka_high END), 4) AS cka_high,
    round(max(CASE WHEN is_same THEN procrustes END), 4) AS procrustes,
    round(max(CASE WHEN is_same THEN procrustes_low END), 4) AS procrustes_low,
    round(max(CASE WHEN is_same THEN procrustes_high END), 4) AS procrustes_high,
    round(max(CASE WHEN is_same THEN procrustes_chance END), 4) AS chance,
    nullif(arg_max(coalesce(other_layer, -1), cka), -1) AS best_layer,
    round(max(cka), 4) AS best_cka
FROM (
    SELECT
        layer,
        other_layer,
        cka,
        cka_low,
        cka_high,
        procrustes,
        procrustes_low,
        procrustes_high,
        procrustes_chance,
        layer IS NOT DISTINCT FROM other_layer AS is_same
    FROM layer_similarity
    WHERE run_id = getvariable('run')
) AS pairs
GROUP BY layer
ORDER BY layer NULLS FIRST;
