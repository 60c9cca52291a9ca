-- In which layers does a trait show, by which method? Cohen's d on held-out questions, a column a method, and random directions' accuracy.
-- run (trait-evaluation): the evaluation asked about
-- needs: trait_evaluations
--
-- layer NULL is the embedding. best_accuracy is the largest of the methods' (random left out), and above_random_low says how far above
-- random directions that one is at least, by the lower end of its 95 % interval: below 0 it may be chance.
SELECT
    trait,
    component,
    layer,
    round(avg(effect_size) FILTER (method = 'mean_diff'), 2) AS mean_diff,
    round(avg(effect_size) FILTER (method = 'probe'), 2) AS probe,
    round(avg(effect_size) FILTER (method = 'ica'), 2) AS ica,
    round(avg(effect_size) FILTER (method = 'gradient'), 2) AS gradient,
    round(avg(effect_size) FILTER (method = 'random'), 2) AS random,
    round(max(CAST(accuracy AS DOUBLE)) FILTER (method <> 'random'), 3) AS best_accuracy,
    arg_max(method, accuracy) FILTER (method <> 'random') AS best_method,
    round(avg(random_accuracy), 3) AS random_accuracy,
    round(arg_max(CAST(above_random_low AS DOUBLE), accuracy) FILTER (method <> 'random'), 3) AS above_random_low
FROM trait_evaluations
WHERE run_id = getvariable('run')
GROUP BY trait, component, layer
ORDER BY trait, component DESC, layer NULLS FIRST;
