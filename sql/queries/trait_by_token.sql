-- What does a response do inside, token by token? Projections on traits beside loss and entropy (nats).
-- run: the run that was projected; of several projections on a trait the newest
-- example: the example, by its id or the beginning of it; the first one if not set
-- trait: the trait; all of them if not set
-- needs: trait_projections, trait_dynamics
--
-- The response's tokens, or all where the run generated none. loss and entropy are of the prediction of the token itself, made
-- one position before it; projection, cosine and velocity of the state that the model is in having read it.
SELECT
    t.example_id,
    t.seq,
    t.pos,
    t.token,
    t.trait,
    t.method,
    t.layer,
    round(t.projection, 3) AS projection,
    round(t.cosine, 4) AS cosine,
    round(t.velocity, 3) AS velocity,
    round(t.own_loss, 3) AS loss,
    round(t.own_entropy, 3) AS entropy
FROM trait_tokens AS t
WHERE
    t.run_id = getvariable('run')
    AND t.example_id = (
        SELECT min(example_id)
        FROM trait_dynamics
        WHERE source_run_id = getvariable('run') AND starts_with(example_id, coalesce(getvariable('example'), ''))
    )
    AND t.trait = coalesce(getvariable('trait'), t.trait)
QUALIFY t.is_response OR NOT bool_or(t.is_response) OVER ()
ORDER BY t.seq, t.trait, t.method, t.component, t.layer NULLS FIRST, t.pos;
