-- Does a circuit hold on other prompts, templates, corruptions and kinds of ablation? A row each, with the reasons.
-- run: the circuit's run, or an evaluation of it
-- size: share of all edges; else the smallest whose faithfulness on the circuit's own task is within 1 - least of 1, by the metric and ablation that it was found with
-- least: the faithfulness to reach; else .8
-- needs: circuit_values
--
-- All of pairs that it was found without. It holds where its faithfulness is between least and 2 - least, random circuits of the size
-- stay below it, and the complement below least. NULL: fewer than 5 pairs (or templates, where those are what resamples draw), a
-- model as it is that hardly differs from one with every edge ablated, or a size that was not evaluated. Where no size below 1
-- reaches least, it is the one that comes nearest.
WITH asked AS (
    SELECT
        coalesce(getvariable('least')::DOUBLE, 0.8) AS least,
        getvariable('size')::DOUBLE AS size
),
curve AS (
    SELECT
        *,
        dense_rank() OVER (
            PARTITION BY circuit_run_id, circuit, level, selection
            ORDER BY part <> 'all', NOT is_own, source_run_id, metric, ablation
        ) AS nearness
    FROM circuit_curve
    WHERE getvariable('run') IN (run_id, circuit_run_id)
),
sizes AS (
    SELECT
        c.circuit_run_id,
        c.circuit,
        c.level,
        c.selection,
        coalesce(
            any_value(a.size),
            min(c.size) FILTER (c.size < 1 AND abs(1 - c.faithfulness) <= 1 - a.least),
            arg_min(c.size, abs(1 - c.faithfulness)) FILTER (c.size < 1),
            max(c.size)
        ) AS size
    FROM curve AS c
    CROSS JOIN asked AS a
    WHERE c.nearness = 1
    GROUP BY c.circuit_run_id, c.circuit, c.level, c.selection
),
judged AS (
    SELECT
        c.run_id,
        c.circuit,
        c.level,
        c.selection,
        c.source_run_id,
        c.part,
        c.ablation,
        c.metric,
        s.size,
        a.least,
        format('{:.2g}', a.least) AS least_told,
        format('{:.2g}', 2 - a.least) AS most_told,
        max(c.n) AS n,
        max(c.n_units) AS n_units,
        max(c.n_edges) FILTER (c.size = s.size) AS n_edges,
        max(c.faithfulness) FILTER (c.size = s.size) AS faithfulness,
        max(c.low) FILTER (c.size = s.size) AS low,
        max(c.high) FILTER (c.size = s.size) AS high,
        coalesce(max(c.random_high) FILTER (c.size = s.size), max(c.random) FILTER (c.size = s.size)) AS random_high,
        max(c.complement) FILTER (c.size = s.size) AS complement,
        count(*) FILTER (c.size = s.size) > 0 AS is_evaluated,
        string_agg(format('{:.3g}', c.size), ', ' ORDER BY c.size) AS evaluated,
        max(c.full_value) AS full_value,
        max(c.none_value) AS none_value
    FROM curve AS c
    JOIN sizes AS s
        ON s.circuit_run_id = c.circuit_run_id AND s.circuit = c.circuit AND s.level = c.level AND s.selection = c.selection
    CROSS JOIN asked AS a
    GROUP BY c.run_id, c.circuit, c.level, c.selection, c.source_run_id, c.part, c.ablation, c.metric, s.size, a.least
)
SELECT
    source_run_id AS task_run,
    part,
    ablation,
    CASE
        WHEN is_evaluated AND size < 1 AND n_units >= 5 AND faithfulness IS NOT NULL
            THEN
                abs(1 - faithfulness) <= 1 - least
                AND coalesce(random_high < faithfulness, TRUE)
                AND coalesce(complement < least, TRUE)
    END AS holds,
    size,
    circuit,
    level,
    selection,
    metric,
    n_edges,
    concat_ws(
        '; ',
        CASE WHEN NOT is_evaluated THEN format('size {:.3g} was not evaluated, only ', size) || evaluated END,
        CASE WHEN is_evaluated AND size >= 1 THEN 'that size is the whole model' END,
        CASE WHEN n_units < 5 THEN format('only {} {}', n_units, if(n_units < n, 'template', 'pair') || if(n_units = 1, '', 's')) END,
        CASE
            WHEN is_evaluated AND faithfulness IS NULL
                THEN
                    coalesce(
                        format('the metric of the model as it is, {:.2f}, hardly differs from that with every edge ablated, {:.2f}', full_value, none_value),
                        'some values are infinite'
                    )
            WHEN is_evaluated
                THEN
                    format('faithfulness {:.2f}', faithfulness)
                    || coalesce(format(' ({:.2f} to {:.2f})', low, high), '')
                    || CASE
                        WHEN faithfulness < least THEN ' is below ' || least_told
                        WHEN faithfulness > 2 - least THEN ' is above ' || most_told || ': more than the model'
                        WHEN low < least THEN ' reaches ' || least_told || ', the lower end of its interval does not'
                        ELSE ' reaches ' || least_told
                    END
        END,
        CASE
            WHEN is_evaluated AND size < 1 AND faithfulness IS NOT NULL
                THEN
                    coalesce(
                        format('random circuits of this size reach {:.2f}', round(random_high, 2) + 0)
                        || if(random_high >= faithfulness, ', no less than it', ''),
                        'no random circuits beside it'
                    )
        END,
        format('the complement keeps {:.2f}', round(complement, 2) + 0) || if(complement >= least, ', so the model does without it', '')
    ) AS reasons
FROM judged
ORDER BY part <> 'all', circuit, level, selection, source_run_id, part, ablation, metric, judged.run_id;
