-- Who shows a trait, in a chat? Mean projection of what is said, by role and turn.
-- run: the run that was projected; of several projections on a trait the newest
-- needs: messages, trait_projections
SELECT
    p.trait,
    p.method,
    p.component,
    p.layer,
    t.turn,
    t.role,
    count(*) AS tokens,
    round(avg(p.projection), 3) AS mean_projection,
    round(avg(p.projection / nullif(p.token_norm, 0)), 4) AS mean_cosine
FROM newest_trait_projections AS p
JOIN chat_tokens AS t
    ON t.run_id = p.source_run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos
WHERE p.source_run_id = getvariable('run') AND t.part IS NOT NULL
GROUP BY p.trait, p.method, p.component, p.layer, t.turn, t.role
ORDER BY p.trait, p.method, p.component, p.layer NULLS FIRST, t.turn, t.role;
