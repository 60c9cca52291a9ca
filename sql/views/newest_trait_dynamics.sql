-- newest_trait_dynamics: a row is a response on a trait's vector, of the newest projection of its run on that trait.
--
-- trait_dynamics keeps those of every projection that was made, also of those with --dynamics-only.
SELECT
    d.run_id,
    d.source_run_id,
    d.example_id,
    d.seq,
    d.vectors_run_id,
    d.trait,
    d.method,
    d.component,
    d.layer,
    d.n_tokens,
    d.first_pos,
    d.mean_projection,
    d.mean_cosine,
    d.spread,
    d.peak_velocity,
    d.commitment_point,
    d.commitment_point_relative,
    d.peak_point,
    d.persistence
FROM trait_dynamics AS d
JOIN (
    SELECT m.source_run_id, m.trait, m.run_id
    FROM (SELECT DISTINCT source_run_id, trait, run_id FROM trait_dynamics) AS m
    JOIN runs AS r ON r.run_id = m.run_id
    QUALIFY row_number() OVER (PARTITION BY m.source_run_id, m.trait ORDER BY r.created_at DESC, m.run_id DESC) = 1
) AS n ON n.run_id = d.run_id AND n.source_run_id = d.source_run_id AND n.trait = d.trait
