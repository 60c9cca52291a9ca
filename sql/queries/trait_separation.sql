-- In which layers does a trait show, by which method? Cohen's d on held-out questions, a column a method, and random directions' accuracy.
-- run (trait-evaluation): the evaluation asked about
-- needs: trait_evaluations
--
-- layer NULL is the embedding. best_method is that of the largest effect size in the cross-validation on training questions (random left
-- out; held-out in evaluations of schema version 6 and before), best_accuracy is its accuracy on the held-out ones, and above_random_low
-- says how far above random directions that is at least, by the lower end of its 95 % interval: at 0 or below it may be chance. The
-- intervals are of one layer each: the largest of a column is partly luck, and trait_best does not pick by it.
SELECT
    trait,
    component,
    layer,
    round(avg(effect_size) FILTER (method = 'mean_diff'), 2) AS mean_diff,
    round(avg(effect_size) FILTER (method = 'probe'), 2) AS probe,
    round(avg(effect_size) FILTER (method = 'ica'), 2) AS ica,
    round(avg(effect_size) FILTER (method = 'gradient'), 2) AS gradient,
    round(avg(effect_size) FILTER (method = 'random'), 2) AS random,
    round(arg_max(CAST(accuracy AS DOUBLE), coalesce(cv_effect_size, effect_size)) FILTER (method <> 'random'), 3) AS best_accuracy,
    arg_max(method, coalesce(cv_effect_size, effect_size)) FILTER (method <> 'random') AS best_method,
    round(avg(random_accuracy), 3) AS random_accuracy,
    round(arg_max(CAST(above_random_low AS DOUBLE), coalesce(cv_effect_size, effect_size)) FILTER (method <> 'random'), 3) AS above_random_low
FROM trait_evaluations
WHERE run_id = getvariable('run')
GROUP BY trait, component, layer
ORDER BY trait, component DESC, layer NULLS FIRST;
