-- How much of a task does a circuit keep, by its size? Faithfulness on held-out pairs, beside random circuits and the complement.
-- run: the circuit's run, or an evaluation of it
-- needs: circuit_values
--
-- faithfulness is (value - none) / (full - none), means over pairs: 1 keeps all, 0 nothing; low and high are its 95 % interval over
-- pairs, or templates where there are 5 or more. random is of as many random edges, the mean of the draws, and random_high the end of
-- their interval: the floor. complement is of all other edges. Areas under the curves: the view circuit_scores.
SELECT
    circuit,
    task,
    level,
    selection,
    ablation,
    metric,
    size,
    n_edges,
    n,
    round(faithfulness, 3) AS faithfulness,
    round(low, 3) AS low,
    round(high, 3) AS high,
    round(random, 3) AS random,
    round(random_high, 3) AS random_high,
    round(complement, 3) AS complement,
    round(accuracy, 3) AS accuracy
FROM circuit_curve AS c
WHERE getvariable('run') IN (run_id, circuit_run_id) AND part = 'all'
ORDER BY circuit, source_run_id, level, selection, ablation, metric, c.run_id, size;
