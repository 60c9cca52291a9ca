-- feature_counts: a row is a feature of a dictionary that is active somewhere in a run: at how many tokens, and how much.
SELECT
    f.run_id,
    f.source_run_id,
    f.sae,
    f.layer,
    f.feature,
    count(*) AS n_tokens,  -- Tokens that it is active at
    count(DISTINCT f.example_id) AS n_examples,  -- Examples that these are of
    count(*) / n.n_tokens AS density,  -- Part of the run's tokens that it is active at
    avg(f.activation) AS mean_activation,  -- Over the tokens that it is active at
    max(f.activation) AS max_activation  -- The strongest
FROM feature_tokens AS f
JOIN (SELECT run_id, sae, count(*) AS n_tokens FROM reconstructions GROUP BY run_id, sae) AS n
    ON n.run_id = f.run_id AND n.sae = f.sae
GROUP BY f.run_id, f.source_run_id, f.sae, f.layer, f.feature, n.n_tokens
