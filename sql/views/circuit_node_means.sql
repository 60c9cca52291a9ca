-- circuit_node_means: a row is a node of a run and its mean score by one method, over all pairs, in however many parts they were scored.
WITH means AS (
    SELECT
        s.run_id,
        c.method,
        s.kind,
        s.layer,
        s.head,
        count(*) AS n_parts,
        sum(c.n_examples)::BIGINT AS n_examples,
        sum(s.score * coalesce(c.n_examples, 1)) / nullif(sum(coalesce(c.n_examples, 1)) FILTER (s.score IS NOT NULL), 0) AS score,
        sum(s.exact_effect * c.n_examples) / nullif(sum(c.n_examples) FILTER (s.exact_effect IS NOT NULL), 0) AS exact_effect
    FROM circuit_nodes AS s
    JOIN circuits AS c ON c.run_id = s.run_id AND c.circuit = s.circuit
    GROUP BY s.run_id, c.method, s.kind, s.layer, s.head
)
SELECT
    run_id,
    method,  -- How it was scored, as in circuits: the name of a circuit that was not found in parts
    kind,
    layer,
    head,
    n_parts,  -- Circuits that the mean is over: 1, or the parts of the run
    n_examples,  -- Pairs of all of them; NULL: imported
    score,  -- Mean of their scores, weighed by their pairs
    exact_effect,  -- Mean effect over those that measured it, weighed likewise; NULL: none did
    CASE
        WHEN score IS NOT NULL
            THEN row_number() OVER (PARTITION BY run_id, method ORDER BY abs(score) DESC NULLS LAST, kind, layer, head)
    END AS rank  -- Its place by size of that, 1 the largest; of equal ones the first by name; NULL: no score
FROM means
