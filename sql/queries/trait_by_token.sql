-- What does a response do inside, token by token? Projections on traits beside loss and entropy (nats).
-- run: the run that was projected; of several projections on a trait the newest
-- example: the example, by its id or the beginning of it; the first one if not set
-- trait: the trait; all of them if not set
-- needs: trait_projections, trait_dynamics
--
-- The response's tokens, or all where the run generated none. loss and entropy are of the prediction of the token itself, made
-- one position before it; projection, cosine and velocity of the state that the model is in having read it.
WITH asked AS (
    SELECT min(example_id) AS example_id
    FROM trait_dynamics
    WHERE source_run_id = getvariable('run') AND starts_with(example_id, coalesce(getvariable('example'), ''))
),
projected AS (
    SELECT example_id, seq, pos, trait, method, component, layer, projection, token_norm, velocity
    FROM newest_trait_projections
    WHERE
        source_run_id = getvariable('run')
        AND example_id IN (SELECT example_id FROM asked)
        AND trait = coalesce(getvariable('trait'), trait)
)
SELECT
    p.example_id,
    p.seq,
    p.pos,
    t.token,
    p.trait,
    p.method,
    p.layer,
    round(p.projection, 3) AS projection,
    round(p.projection / nullif(p.token_norm, 0), 4) AS cosine,
    round(p.velocity, 3) AS velocity,
    round(b.loss, 3) AS loss,
    round(b.entropy, 3) AS entropy
FROM projected AS p
JOIN (
    SELECT seq, pos, token, is_response
    FROM tokens
    WHERE run_id = getvariable('run') AND example_id IN (SELECT example_id FROM asked) AND side = 'dec'
) AS t ON t.seq = p.seq AND t.pos = p.pos
LEFT JOIN (
    SELECT seq, pos, loss, entropy
    FROM next_token
    WHERE run_id = getvariable('run') AND example_id IN (SELECT example_id FROM asked)
) AS b ON b.seq = p.seq AND b.pos = p.pos - 1
QUALIFY t.is_response OR NOT bool_or(t.is_response) OVER ()
ORDER BY p.seq, p.trait, p.method, p.component, p.layer NULLS FIRST, p.pos;
