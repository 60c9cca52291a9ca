-- circuit_scores: a row is an evaluated circuit's curve in one number or another, on a task's pairs or on those of one of its parts.
--
-- Areas are by trapezoids between the sizes that were evaluated. The linear ones, of the sizes as they are, say little of small circuits;
-- log_area gives every factor of size the same weight. Compare areas over the same sizes. NULL: fewer than two sizes, or one of
-- them has no faithfulness.
WITH steps AS (
    SELECT
        run_id,
        circuit_run_id,
        circuit,
        source_run_id,
        task,
        is_own,
        part,
        level,
        selection,
        ablation,
        metric,
        n,
        size,
        faithfulness,
        random,
        complement,
        size - lag(size) OVER sizes AS width,
        CASE WHEN size > 0 THEN ln(size) END - lag(CASE WHEN size > 0 THEN ln(size) END) OVER sizes AS log_width,
        (faithfulness + lag(faithfulness) OVER sizes) / 2 AS middle,
        (abs(1 - faithfulness) + lag(abs(1 - faithfulness)) OVER sizes) / 2 AS gap,
        (random + lag(random) OVER sizes) / 2 AS random_middle,
        (abs(1 - random) + lag(abs(1 - random)) OVER sizes) / 2 AS random_gap,
        (complement + lag(complement) OVER sizes) / 2 AS complement_middle
    FROM circuit_curve
    WINDOW
        sizes AS (
            PARTITION BY run_id, circuit_run_id, circuit, source_run_id, task, is_own, part, level, selection, ablation, metric ORDER BY size
        )
)
SELECT
    run_id,
    circuit_run_id,
    circuit,
    source_run_id,
    task,
    is_own,
    part,
    level,
    selection,
    ablation,
    metric,
    max(n) AS n,  -- Pairs
    count(*) AS n_sizes,  -- Sizes that were evaluated
    min(size) AS smallest,  -- The smallest of them
    max(size) AS largest,  -- The largest of them
    CASE WHEN count(faithfulness) = count(*) THEN sum(width * middle) END AS cpr,  -- Area under faithfulness by size: how much it keeps
    CASE WHEN count(faithfulness) = count(*) THEN sum(width * gap) END AS cmd,  -- Area under |1 - faithfulness| by size: how far it is from the model
    CASE
        WHEN count(faithfulness) = count(*) THEN sum(log_width * middle) / sum(log_width)
    END AS log_area,  -- Area under faithfulness by ln size, over the range of ln size
    CASE WHEN count(random) = count(*) THEN sum(width * random_middle) END AS random_cpr,  -- cpr of random circuits: the floor
    CASE WHEN count(random) = count(*) THEN sum(width * random_gap) END AS random_cmd,  -- cmd of random circuits
    CASE WHEN count(complement) = count(*) THEN sum(width * complement_middle) END AS complement_cpr  -- cpr of the complements
FROM steps
GROUP BY run_id, circuit_run_id, circuit, source_run_id, task, is_own, part, level, selection, ablation, metric
