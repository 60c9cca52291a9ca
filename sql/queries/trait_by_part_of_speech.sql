-- On which parts of speech does a trait show? Mean projection by the universal tag of the word that a token begins in.
-- run: the run that was projected; of several projections on a trait the newest
-- needs: words, trait_projections
--
-- difference is to all other tagged tokens of the run, effect_size that in standard deviations over all of them. Neither
-- has an interval: tokens of one text resemble each other, so that a few texts say little however many tokens they have.
WITH by_tag AS (
    SELECT
        p.trait,
        p.method,
        p.component,
        p.layer,
        w.upos,
        count(*) AS n,
        sum(CAST(p.projection AS DOUBLE)) AS total,
        sum(CAST(p.projection AS DOUBLE) * p.projection) AS squares,
        avg(p.projection / nullif(p.token_norm, 0)) AS cosine,
        avg(abs(p.velocity)) AS speed
    FROM newest_trait_projections AS p
    JOIN (
        SELECT t.example_id, t.seq, t.pos, v.upos
        FROM tokens AS t
        JOIN words AS v USING (run_id, example_id, word_idx)
        WHERE t.run_id = getvariable('run') AND t.side = 'dec' AND v.upos IS NOT NULL
    ) AS w USING (example_id, seq, pos)
    WHERE p.source_run_id = getvariable('run')
    GROUP BY p.trait, p.method, p.component, p.layer, w.upos
),
with_overall AS (
    SELECT
        trait,
        method,
        component,
        layer,
        upos,
        n,
        cosine,
        speed,
        total / n AS projection,
        total / n - (sum(total) OVER vector - total) / nullif(sum(n) OVER vector - n, 0) AS difference,
        sqrt(greatest(sum(squares) OVER vector / sum(n) OVER vector - (sum(total) OVER vector / sum(n) OVER vector) ** 2, 0))
            AS spread
    FROM by_tag
    WINDOW vector AS (PARTITION BY trait, method, component, layer)
)
SELECT
    trait,
    method,
    component,
    layer,
    upos,
    n AS tokens,
    round(projection, 3) AS mean_projection,
    round(cosine, 4) AS mean_cosine,
    round(difference, 3) AS difference,
    round(difference / nullif(spread, 0), 3) AS effect_size,
    round(speed, 3) AS mean_speed
FROM with_overall
ORDER BY trait, method, component, layer NULLS FIRST, projection DESC, upos;
