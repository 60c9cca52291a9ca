-- feature_cooccurrences: a row is a pair of features that are active at the same tokens, of one dictionary or of two at one run.
--
-- For one feature: WHERE feature = 7 AND sae = '…' looks at its tokens alone. Each pair is there twice, once from each side.
WITH counts AS (
    SELECT run_id, sae, feature, count(*) AS n_tokens FROM feature_tokens GROUP BY run_id, sae, feature
),
pairs AS (
    SELECT a.run_id, a.source_run_id, a.sae, a.layer, a.feature, b.sae AS other_sae, b.feature AS other_feature, count(*) AS n_both
    FROM feature_tokens AS a
    JOIN features AS b
        ON b.run_id = a.run_id AND b.example_id = a.example_id AND b.seq = a.seq AND b.pos = a.pos
        AND NOT (b.sae = a.sae AND b.feature = a.feature)
    GROUP BY a.run_id, a.source_run_id, a.sae, a.layer, a.feature, b.sae, b.feature
)
SELECT
    p.run_id,
    p.source_run_id,
    p.sae,
    p.layer,
    p.feature,
    p.other_sae,  -- The dictionary of the other feature
    p.other_feature,  -- The other feature
    p.n_both,  -- Tokens that both are active at
    a.n_tokens,  -- Tokens that the feature is active at
    b.n_tokens AS other_n_tokens,  -- Tokens that the other is active at
    p.n_both / nullif(a.n_tokens + b.n_tokens - p.n_both, 0) AS jaccard,  -- n_both in parts of the tokens that either is active at
    ln(CAST(p.n_both AS DOUBLE) * n.n_tokens / (CAST(a.n_tokens AS DOUBLE) * b.n_tokens)) AS pmi  -- ln of n_both in parts of what it would be if they were independent, nats
FROM pairs AS p
JOIN counts AS a ON a.run_id = p.run_id AND a.sae = p.sae AND a.feature = p.feature
JOIN counts AS b ON b.run_id = p.run_id AND b.sae = p.other_sae AND b.feature = p.other_feature
JOIN (SELECT run_id, sae, count(*) AS n_tokens FROM reconstructions GROUP BY run_id, sae) AS n
    ON n.run_id = p.run_id AND n.sae = p.sae
