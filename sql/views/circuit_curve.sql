-- circuit_curve: a row is a size of an evaluated circuit on a task's pairs, or on those of one of its templates or corruptions.
--
-- Of the pairs that the circuit was found without. Faithfulness is the sum of value - none by that of full - none: a mean of the pairs'
-- ratios is ruled by those whose two hardly differ. It is NULL where their means are less apart than .1 of logit_diff and logprob, .01
-- of prob_diff and kl. Intervals are of 200 resamples: each weighs every unit by 0, 1, 2, … as likely as it is drawn so often (Poisson);
-- the same unit weighs the same at every size and for every variant. Within one template the units are its pairs. Weights come from md5 and
-- whole numbers below 2^63, so that every engine draws the same.
WITH told AS (
    SELECT
        run_id,
        example_id,
        task,
        template,
        corruption,
        min(template) OVER every <> max(template) OVER every AS has_templates,
        min(corruption) OVER every <> max(corruption) OVER every AS has_corruptions
    FROM task_pairs
    WHERE seq = 1
    WINDOW every AS (PARTITION BY run_id)
),
parts AS (
    SELECT run_id, example_id, task, 'all' AS part, FALSE AS by_pair
    FROM told
    UNION ALL
    SELECT run_id, example_id, task, 'template: ' || template, TRUE
    FROM told
    WHERE has_templates AND template IS NOT NULL
    UNION ALL
    SELECT run_id, example_id, task, 'corruption: ' || corruption, FALSE
    FROM told
    WHERE has_corruptions
),
own AS (
    SELECT run_id, any_value(source_run_id) AS source_run_id, any_value(metric) AS metric, any_value(ablation) AS ablation
    FROM circuits
    GROUP BY run_id
),
lists AS (
    SELECT
        v.run_id,
        v.circuit_run_id,
        v.circuit,
        v.source_run_id,
        p.task,
        coalesce(v.source_run_id = o.source_run_id AND v.metric = o.metric AND v.ablation = o.ablation, FALSE) AS is_own,
        coalesce(p.part, 'all') AS part,
        v.level,
        v.selection,
        v.ablation,
        v.metric,
        CASE WHEN v.metric IN ('logit_diff', 'logprob') THEN 0.1 ELSE 0.01 END AS least,
        v.size,
        v.variant,
        v.draw,
        count(*) AS n,
        count(DISTINCT if(p.by_pair, v.example_id, v.unit)) AS n_units,
        max(v.n_edges) AS n_edges,
        avg(v.full_value) AS full_value,
        avg(v.none_value) AS none_value,
        avg(v.value) AS value,
        avg((v.value > 0)::INTEGER) AS above_0,
        list((md5_number_lower(if(p.by_pair, v.example_id, v.unit)) % 2147483647)::BIGINT) AS units,
        list(v.value - v.none_value) AS kept,
        list(v.full_value - v.none_value) AS whole
    FROM circuit_values AS v
    LEFT JOIN own AS o ON o.run_id = v.circuit_run_id
    LEFT JOIN parts AS p ON p.run_id = v.source_run_id AND p.example_id = v.example_id
    WHERE v.held_out
    GROUP BY ALL
),
resamples AS (
    SELECT
        (md5_number_lower('factor ' || resample) % 2147483646)::BIGINT + 1 AS factor,
        (md5_number_lower('shift ' || resample) % 2147483647)::BIGINT AS shift
    FROM (SELECT unnest(range(200)) AS resample) AS r
),
drawn AS (
    SELECT
        * EXCLUDE (units),
        CASE
            WHEN isfinite(value) AND isfinite(full_value - none_value) AND abs(full_value - none_value) >= least
                THEN (value - none_value) / (full_value - none_value)
        END AS ratio,
        list_transform(units, lambda unit: ((unit * factor + shift) >> 16) & 2147483647) AS places
    FROM lists
    CROSS JOIN resamples
),
weighed AS (
    SELECT
        * EXCLUDE (places),
        list_transform(  -- Poisson's distribution with mean 1, by how far into the range from 0 to 2^31 a place lies
            places,
            lambda place: CASE
                WHEN place < 790015084 THEN 0
                WHEN place < 1580030169 THEN 1
                WHEN place < 1975037711 THEN 2
                WHEN place < 2106706892 THEN 3
                WHEN place < 2139624187 THEN 4
                WHEN place < 2146207646 THEN 5
                ELSE 6
            END::DOUBLE
        ) AS weights
    FROM drawn
),
sums AS (
    SELECT
        * EXCLUDE (weights),
        list_inner_product(weights, kept) AS kept_sum,
        list_inner_product(weights, whole) AS whole_sum,
        list_sum(weights) AS weight
    FROM weighed
),
ratios AS (
    SELECT
        * EXCLUDE (weight),
        CASE
            WHEN isfinite(kept_sum) AND isfinite(whole_sum) AND weight > 0 AND abs(whole_sum) >= least * weight
                THEN kept_sum / whole_sum
        END AS resampled
    FROM sums
)
SELECT
    run_id,
    circuit_run_id,
    circuit,
    source_run_id,
    task,  -- Name of the task; NULL: its run is not there
    is_own,  -- Whether the task's run, the metric and the kind of ablation are those that the circuit was found with
    part,  -- all: every pair; or 'template: …' or 'corruption: …', of a task with several
    level,
    selection,
    ablation,
    metric,
    size,
    max(n) AS n,  -- Pairs
    max(n_units) AS n_units,  -- Units that resamples draw: pairs, or templates
    max(n_edges) FILTER (variant = 'circuit') AS n_edges,  -- Edges left as they are in the circuit, without those that lead from or to nothing
    max(ratio) FILTER (variant = 'circuit') AS faithfulness,  -- What the circuit alone keeps: 1 all, 0 nothing; NULL: full and none hardly differ, or a value is infinite
    CASE
        WHEN count(resampled) FILTER (variant = 'circuit') >= 0.975 * count(*) FILTER (variant = 'circuit')
            THEN quantile_cont(resampled, 0.025) FILTER (variant = 'circuit')
    END AS low,  -- Lower end of its 95 % interval over units; NULL: too few units, or full and none hardly differ in some resamples
    CASE
        WHEN count(resampled) FILTER (variant = 'circuit') >= 0.975 * count(*) FILTER (variant = 'circuit')
            THEN quantile_cont(resampled, 0.975) FILTER (variant = 'circuit')
    END AS high,  -- Upper end
    max(ratio) FILTER (variant = 'complement') AS complement,  -- The same of all edges but the circuit's; NULL: not evaluated
    avg(ratio) FILTER (variant = 'random') AS random,  -- The same of as many random edges, mean over draws: the floor; NULL: not evaluated
    CASE
        WHEN count(resampled) FILTER (variant = 'random') >= 0.975 * count(*) FILTER (variant = 'random')
            THEN quantile_cont(resampled, 0.025) FILTER (variant = 'random')
    END AS random_low,  -- Lower end of its 95 % interval over draws and units
    CASE
        WHEN count(resampled) FILTER (variant = 'random') >= 0.975 * count(*) FILTER (variant = 'random')
            THEN quantile_cont(resampled, 0.975) FILTER (variant = 'random')
    END AS random_high,  -- Upper end
    CASE
        WHEN metric IN ('logit_diff', 'prob_diff') THEN max(above_0) FILTER (variant = 'circuit')
    END AS accuracy,  -- Share of pairs that the circuit alone gets right, with a metric above 0; NULL: logprob and kl have no sign
    max(full_value) FILTER (isfinite(full_value)) AS full_value,  -- Mean metric of the model as it is
    max(none_value) FILTER (isfinite(none_value)) AS none_value  -- Mean metric with every edge ablated
FROM ratios
GROUP BY
    run_id, circuit_run_id, circuit, source_run_id, task, is_own, part, level, selection, ablation, metric, size
