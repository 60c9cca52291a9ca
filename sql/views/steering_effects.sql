-- steering_effects: a row is a coefficient of a trait's vector in a layer, with what steering along it did to the responses.
SELECT
    run_id,
    vectors_run_id,
    trait,
    method,
    component,
    layer,
    coefficient,
    count(*) AS n,  -- Responses
    count(trait_score) AS n_scored,  -- Responses that the newest judge gave a trait_score
    avg(trait_score) AS trait_score,  -- Mean of those scores, 0 to 100; NULL: nothing is judged
    avg(coherence_score) AS coherence_score,  -- Mean coherence, 0 to 100; NULL: nothing is judged
    avg(n_response_tokens) AS response_tokens  -- Mean length of the responses, tokens
FROM judged_responses
WHERE coefficient IS NOT NULL
GROUP BY run_id, vectors_run_id, trait, method, component, layer, coefficient
