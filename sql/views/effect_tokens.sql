-- effect_tokens: a row is the effect of an intervention at one position on a metric of one prompt, with the token that stands there.
SELECT
    e.run_id,
    e.source_run_id,
    e.intervention_id,
    e.example_id,
    e.seq,
    t.pos,
    t.token_id,
    t.token,
    o.token AS other_token,  -- The token that stands there in the pair's other prompt
    t.token_id <> o.token_id AS changed,  -- Whether the two prompts differ there
    i.side,
    i.site,
    i.layer,
    i.head,
    i.kind,
    i.direction,
    e.metric,
    s.is_default,
    e.baseline,
    e.value,
    e.effect,
    e.effect_normalised
FROM effects AS e
JOIN interventions AS i ON i.run_id = e.run_id AND i.intervention_id = e.intervention_id
JOIN task_pairs AS p ON p.run_id = e.source_run_id AND p.example_id = e.example_id AND p.seq = e.seq
JOIN tokens AS t
    ON t.run_id = e.source_run_id
    AND t.example_id = e.example_id
    AND t.seq = e.seq
    AND t.side = i.side
    AND t.pos = CASE WHEN i.pos < 0 THEN p.n_tokens + i.pos ELSE i.pos END
LEFT JOIN tokens AS o
    ON o.run_id = t.run_id AND o.example_id = t.example_id AND o.seq = 1 - e.seq AND o.pos = t.pos AND o.side = t.side
LEFT JOIN task_scores AS s ON s.run_id = e.source_run_id AND s.example_id = e.example_id AND s.metric = e.metric
