-- circuit_node_ensembles: a row is a node of a run and its mean rank over the methods that scored it, random ones left out.
WITH means AS (
    SELECT
        run_id,
        kind,
        layer,
        head,
        count(*) AS n_methods,
        avg(rank) AS mean_rank,
        avg(score) AS score
    FROM circuit_node_means
    WHERE method <> 'random' AND rank IS NOT NULL
    GROUP BY run_id, kind, layer, head
)
SELECT
    run_id,
    kind,
    layer,
    head,
    n_methods,  -- Methods that scored it: an ensemble of one is that method
    mean_rank,  -- Mean of its ranks over them
    score,  -- Mean of its scores over them
    row_number() OVER (
        PARTITION BY run_id
        ORDER BY mean_rank, abs(score) DESC, kind, layer, head
    ) AS rank  -- Its place by mean rank, 1 the first; of equal ones the larger score
FROM means
