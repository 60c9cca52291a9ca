-- trait_tokens: a row is a token of a run on a trait's vector, with how well the model foresaw it.
--
-- Of the newest projection of the run on that trait. The projection is of the state that the model is in having read the token.
-- velocity and acceleration are NULL where dynamics do not look: see docs/traits.md.
SELECT
    p.source_run_id AS run_id,  -- The run that was projected
    p.example_id,
    p.seq,
    p.pos,
    t.token,
    t.is_special,
    t.is_response,
    CASE WHEN t.is_response THEN p.pos - s.n_prompt_tokens END AS response_pos,  -- Place among the response's tokens, 0-based; NULL: a token of the prompt
    w.upos,  -- Universal part of speech of the annotated word that the token begins in
    w.lemma,  -- Lemma of that word
    p.trait,
    p.method,
    p.component,
    p.layer,
    p.projection,
    p.token_norm,
    p.projection / nullif(p.token_norm, 0) AS cosine,  -- Cosine of the state with the vector: projection / token_norm; NULL: the state is zero
    p.velocity,
    p.acceleration,
    b.loss AS own_loss,  -- Loss of this very token, predicted one position before, nats
    b.entropy AS own_entropy,  -- Entropy of that prediction, nats
    a.loss,  -- Loss of the token that follows, predicted here, nats
    a.entropy,  -- Entropy of the prediction made here, nats
    p.is_first,
    p.vectors_run_id,
    p.run_id AS projection_run_id  -- The run that holds the projection
FROM newest_trait_projections AS p
JOIN tokens AS t
    ON t.run_id = p.source_run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos
LEFT JOIN next_token AS a
    ON a.run_id = p.source_run_id AND a.example_id = p.example_id AND a.seq = p.seq AND a.pos = p.pos
LEFT JOIN next_token AS b
    ON b.run_id = p.source_run_id AND b.example_id = p.example_id AND b.seq = p.seq AND b.pos = p.pos - 1
LEFT JOIN words AS w ON w.run_id = p.source_run_id AND w.example_id = p.example_id AND w.word_idx = t.word_idx
LEFT JOIN responses AS s ON s.run_id = p.source_run_id AND s.example_id = p.example_id AND s.seq = p.seq
WHERE t.side = 'dec'
