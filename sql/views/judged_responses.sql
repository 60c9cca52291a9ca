-- judged_responses: a row is a response that a model generated, with what the newest judge says of it.
--
-- Of the runs of kind judge that have judged a response, the one made last counts. The judge's columns are NULL where none has.
SELECT
    r.run_id,
    r.example_id,
    r.seq,
    r.prompt,
    r.system,
    r.response,
    r.n_prompt_tokens,
    r.n_response_tokens,
    r.finish,
    r.trait,
    r.polarity,
    r.instruction_idx,
    r.question_idx,
    r.vectors_run_id,
    r.method,
    r.component,
    r.layer,
    r.coefficient,
    j.trait_score,
    j.coherence_score,
    j.refused,
    j.scored_by,
    j.number_mass,
    j.trait_rule,
    j.coherence_rule,
    j.judge,
    j.judge_run_id  -- The run of kind judge that the judgement is of: the one made last; NULL: not judged
FROM responses AS r
LEFT JOIN (
    SELECT
        g.source_run_id,
        g.example_id,
        g.seq,
        g.trait,
        g.trait_score,
        g.coherence_score,
        g.refused,
        g.scored_by,
        g.number_mass,
        g.trait_rule,
        g.coherence_rule,
        g.judge,
        g.run_id AS judge_run_id
    FROM judgements AS g
    JOIN runs AS made ON made.run_id = g.run_id
    QUALIFY row_number() OVER (
        PARTITION BY g.source_run_id, g.example_id, g.seq, g.trait ORDER BY made.created_at DESC, g.run_id DESC
    ) = 1
) AS j ON j.source_run_id = r.run_id AND j.example_id = r.example_id AND j.seq = r.seq AND j.trait = r.trait
