-- What does steering along a trait's vector do? Trait score, coherence and length of the responses by coefficient.
-- run (trait-steering): the steering run asked about
-- needs: responses
--
-- A coefficient of 1 is the distance between the two polarities' means along the vector. Scores, 0 to 100, are the newest judge's, and
-- NULL where there is none; length is in tokens, and cut_short is the part of the responses that reached --max-new-tokens.
SELECT
    trait,
    method,
    component,
    layer,
    coefficient,
    count(*) AS responses,
    count(trait_score) AS scored,
    round(avg(trait_score), 1) AS trait_score,
    round(avg(coherence_score), 1) AS coherence,
    round(avg(n_response_tokens), 1) AS tokens,
    round(avg(CAST(finish = 'length' AS INTEGER)), 3) AS cut_short,
    arg_min(response[:60], example_id) AS for_example
FROM judged_responses
WHERE run_id = getvariable('run')
GROUP BY trait, method, component, layer, coefficient
ORDER BY trait, method, component, layer NULLS FIRST, coefficient;
