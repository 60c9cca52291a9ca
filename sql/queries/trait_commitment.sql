-- On which tokens does the response commit, and how surprising were they? Loss and entropy (nats) there and elsewhere.
-- run: the run that was projected; of several projections on a trait the newest
-- needs: trait_projections, trait_dynamics, next_token
--
-- The commitment point is the first token at which the projection's absolute acceleration falls under a threshold: that of the
-- projection's run (its option threshold, 0.1 unless another was asked for), in units of the stream (absolute), or that part of the
-- projection's own spread over the response (relative). loss and entropy are of the prediction of
-- the token itself; elsewhere means the other tokens that have an acceleration, the response's third and later ones. tokens are the five on
-- which most responses commit. A run that generated nothing is looked at whole.
WITH looked AS (
    SELECT
        p.trait,
        p.method,
        p.component,
        p.layer,
        t.token,
        b.loss AS own_loss,
        b.entropy AS own_entropy,
        p.acceleration,
        row_number() OVER (
            PARTITION BY p.trait, p.method, p.component, p.layer, p.example_id, p.seq ORDER BY p.pos
        ) - 1 AS place,
        d.commitment_point,
        d.commitment_point_relative
    FROM newest_trait_projections AS p
    JOIN trait_dynamics AS d
        ON d.run_id = p.run_id AND d.source_run_id = p.source_run_id AND d.example_id = p.example_id AND d.seq = p.seq
        AND d.trait = p.trait AND d.method = p.method AND d.component = p.component
        AND d.layer IS NOT DISTINCT FROM p.layer
    JOIN tokens AS t
        ON t.run_id = p.source_run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos
    LEFT JOIN next_token AS b
        ON b.run_id = p.source_run_id AND b.example_id = p.example_id AND b.seq = p.seq AND b.pos = p.pos - 1
    WHERE
        p.source_run_id = getvariable('run')
        AND t.side = 'dec'
        AND (p.velocity IS NOT NULL OR p.pos = d.first_pos)
),
by_threshold AS (
    SELECT trait, method, component, layer, token, own_loss, own_entropy, place, 'absolute' AS threshold, commitment_point AS point
    FROM looked
    WHERE acceleration IS NOT NULL
    UNION ALL
    SELECT trait, method, component, layer, token, own_loss, own_entropy, place, 'relative', commitment_point_relative
    FROM looked
    WHERE acceleration IS NOT NULL
),
frequent AS (
    SELECT trait, method, component, layer, threshold, list(token ORDER BY n DESC, token)[:5] AS tokens
    FROM (
        SELECT trait, method, component, layer, threshold, token, count(*) AS n
        FROM by_threshold
        WHERE place = point
        GROUP BY trait, method, component, layer, threshold, token
    )
    GROUP BY trait, method, component, layer, threshold
)
SELECT
    b.trait,
    b.method,
    b.component,
    b.layer,
    b.threshold,
    count(*) FILTER (b.place = b.point) AS committed,
    round(avg(b.place) FILTER (b.place = b.point), 2) AS mean_place,
    round(avg(b.own_loss) FILTER (b.place = b.point), 3) AS loss,
    round(avg(b.own_loss) FILTER (b.place IS DISTINCT FROM b.point), 3) AS loss_elsewhere,
    round(avg(b.own_entropy) FILTER (b.place = b.point), 3) AS entropy,
    round(avg(b.own_entropy) FILTER (b.place IS DISTINCT FROM b.point), 3) AS entropy_elsewhere,
    any_value(f.tokens) AS tokens
FROM by_threshold AS b
LEFT JOIN frequent AS f
    ON f.trait = b.trait AND f.method = b.method AND f.component = b.component
    AND f.layer IS NOT DISTINCT FROM b.layer AND f.threshold = b.threshold
GROUP BY b.trait, b.method, b.component, b.layer, b.threshold
ORDER BY b.trait, b.method, b.component, b.layer NULLS FIRST, b.threshold;
