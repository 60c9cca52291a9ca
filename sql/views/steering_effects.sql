-- steering_effects: a row is a coefficient of a trait's vector in a layer, with what steering along it did to the responses.
--
-- n counts the responses and n_scored those with a trait_score of the newest judge. trait_score and coherence_score are means, 0 to 100,
-- and NULL where nothing is judged; response_tokens is the mean length. A coefficient of 1 is the distance between the two polarities' means along the vector (trait_vectors.gap).
SELECT
    run_id,
    vectors_run_id,
    trait,
    method,
    component,
    layer,
    coefficient,
    count(*) AS n,
    count(trait_score) AS n_scored,
    avg(trait_score) AS trait_score,
    avg(coherence_score) AS coherence_score,
    avg(n_response_tokens) AS response_tokens
FROM judged_responses
WHERE coefficient IS NOT NULL
GROUP BY run_id, vectors_run_id, trait, method, component, layer, coefficient
