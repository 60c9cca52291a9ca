-- How do texts of each emotion project on the traits? Mean projection by label, and against all other texts.
-- run: the run that was projected; of several projections on a trait the newest
-- needs: labels, trait_dynamics
--
-- A mean over examples of each example's own mean, so that long texts count no more than short ones. An example with several
-- labels counts for each. difference is to the examples of the run that have not the label, other labels or none; effect_size is
-- that difference in standard deviations over all examples. Neither has an interval: of few examples both are mostly chance.
WITH by_example AS (
    SELECT
        d.example_id,
        d.trait,
        d.method,
        d.component,
        d.layer,
        sum(d.mean_projection * d.n_tokens) / sum(d.n_tokens) AS projection,
        sum(d.mean_cosine * d.n_tokens) / sum(d.n_tokens) AS cosine
    FROM newest_trait_dynamics AS d
    WHERE d.source_run_id = getvariable('run')
    GROUP BY d.example_id, d.trait, d.method, d.component, d.layer
),
overall AS (
    SELECT
        trait,
        method,
        component,
        layer,
        count(*) AS n,
        sum(projection) AS projection,
        stddev_pop(projection) AS spread
    FROM by_example
    GROUP BY trait, method, component, layer
),
by_label AS (
    SELECT
        e.trait,
        e.method,
        e.component,
        e.layer,
        l.label,
        count(*) AS n,
        sum(e.projection) AS projection,
        avg(e.cosine) AS cosine
    FROM by_example AS e
    JOIN labels AS l ON l.run_id = getvariable('run') AND l.example_id = e.example_id
    GROUP BY e.trait, e.method, e.component, e.layer, l.label
),
compared AS (
    SELECT
        b.trait,
        b.method,
        b.component,
        b.layer,
        b.label,
        b.n,
        b.projection / b.n AS projection,
        b.cosine,
        b.projection / b.n - (o.projection - b.projection) / nullif(o.n - b.n, 0) AS difference,
        o.spread
    FROM by_label AS b
    JOIN overall AS o
        ON o.trait = b.trait AND o.method = b.method AND o.component = b.component
        AND o.layer IS NOT DISTINCT FROM b.layer
)
SELECT
    trait,
    method,
    component,
    layer,
    label,
    n AS examples,
    round(projection, 3) AS mean_projection,
    round(cosine, 4) AS mean_cosine,
    round(difference, 3) AS difference,
    round(difference / nullif(spread, 0), 3) AS effect_size
FROM compared
ORDER BY trait, method, component, layer NULLS FIRST, projection DESC, label;
