-- Which trait vectors are near each other? The cosine between two traits' vectors of the same method and layer, nearest first.
-- needs: trait_vectors
--
-- Of the newest run of vectors of each trait, among models with the same weights. chance is the size that the cosine of two random
-- directions typically has, 1 / sqrt(width); vectors of the same residual stream that were made from other responses share more.
WITH newest AS (
    SELECT
        v.trait,
        v.method,
        v.component,
        v.layer,
        v.vector,
        r.model,
        coalesce(nullif(r.body_hash, ''), r.weights_hash) AS space
    FROM trait_vectors AS v
    JOIN runs AS r USING (run_id)
    WHERE v.method <> 'random'
    QUALIFY dense_rank() OVER (PARTITION BY space, v.trait ORDER BY r.created_at DESC, v.run_id DESC) = 1
)
SELECT
    a.trait,
    b.trait AS other_trait,
    a.method,
    a.component,
    a.layer,
    round(list_cosine_similarity(a.vector, b.vector), 3) AS cosine,
    round(1 / sqrt(len(a.vector)), 3) AS chance,
    a.model
FROM newest AS a
JOIN newest AS b
    ON b.space = a.space
    AND b.method = a.method
    AND b.component = a.component
    AND b.layer IS NOT DISTINCT FROM a.layer
    AND b.trait > a.trait
ORDER BY cosine DESC, a.trait, other_trait, a.method, a.component, a.layer
LIMIT 40;
