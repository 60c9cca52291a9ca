-- Which edges of a model carry a task? The largest scores of each circuit of a run, with how sure they are.
-- run: the circuit's run
-- circuit: one of its circuits; else all but random ones
-- needs: circuits, circuit_edges
--
-- score estimates the metric with the edge corrupted less the metric as it is: below 0 helps. It ranks edges and is no effect;
-- exact_effect is one, where it was measured. low and high are the score's 95 % interval, selection_frequency the share of resamples
-- in which the edge is among the first 1 %.
SELECT
    e.circuit,
    e.rank,
    CASE e.source_kind
        WHEN 'embed' THEN 'embed'
        WHEN 'head' THEN format('L{}H{}', e.source_layer, e.source_head)
        ELSE upper(e.source_kind[1]) || e.source_layer
    END AS source,
    CASE e.sink_kind
        WHEN 'logits' THEN 'logits'
        WHEN 'head' THEN format('L{}H{}.{}', e.sink_layer, e.sink_head, e.port)
        ELSE 'M' || e.sink_layer
    END AS sink,
    round(e.score, 4) AS score,
    round(e.low, 4) AS low,
    round(e.high, 4) AS high,
    round(e.selection_frequency, 2) AS selection_frequency,
    round(e.exact_effect, 4) AS exact_effect
FROM circuit_edges AS e
JOIN circuits AS c ON c.run_id = e.run_id AND c.circuit = e.circuit
WHERE
    e.run_id = getvariable('run')
    AND CASE WHEN getvariable('circuit') IS NULL THEN c.method <> 'random' ELSE e.circuit = getvariable('circuit') END
    AND e.rank <= 30
ORDER BY e.circuit, e.rank;
