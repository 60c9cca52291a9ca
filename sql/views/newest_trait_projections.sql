-- newest_trait_projections: a row is a token on a trait's vector, of the newest projection of its run on that trait.
--
-- trait_projections keeps every projection that was made; of a run that was projected again, on vectors made anew, here are the
-- later one's rows only, trait by trait.
SELECT
    p.run_id,
    p.source_run_id,
    p.example_id,
    p.seq,
    p.pos,
    p.vectors_run_id,
    p.trait,
    p.method,
    p.component,
    p.layer,
    p.method = n.method AND p.component = n.component AND p.layer IS NOT DISTINCT FROM n.layer AS is_first,  -- Whether its vector is the one of its trait that token_diagnostics shows: the first by method, component and layer
    p.projection,
    p.token_norm,
    p.velocity,
    p.acceleration
FROM trait_projections AS p
JOIN (
    -- From the few rows of trait_dynamics, which has every vector that a run was projected on.
    SELECT d.source_run_id, d.trait, d.run_id, d.method, d.component, d.layer
    FROM (SELECT DISTINCT source_run_id, trait, run_id, method, component, layer FROM trait_dynamics) AS d
    JOIN runs AS r ON r.run_id = d.run_id AND list_contains(r.tables, 'trait_projections')
    QUALIFY
        row_number() OVER (
            PARTITION BY d.source_run_id, d.trait
            ORDER BY r.created_at DESC, d.run_id DESC, d.method, d.component, d.layer NULLS FIRST
        ) = 1
) AS n ON n.run_id = p.run_id AND n.source_run_id = p.source_run_id AND n.trait = p.trait
