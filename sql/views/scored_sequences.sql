-- scored_sequences: a row is a score of a sequence.
--
-- As evaluations, but that a score of several sequences together, the choices of a question, stands beside each of them. So it joins
-- with tokens and states by run_id, example_id and seq; to count questions, count evaluations, or distinct example_id.
SELECT
    v.run_id,
    v.example_id,
    coalesce(v.seq, s.seq) AS seq,  -- The sequence that the score is of
    v.scorer,
    v.metric,
    v.value,
    v.score,
    v.is_correct,
    v.target,
    v.answer,
    v.explanation,
    v.task,
    v.epoch,
    v.answered_by,
    v.seq IS NULL AS is_shared  -- Whether it is a score of all sequences of the example together
FROM evaluations AS v
JOIN (
    SELECT DISTINCT run_id, example_id, seq
    FROM tokens
    WHERE pos = 0
) AS s ON s.run_id = v.run_id AND s.example_id = v.example_id AND (v.seq IS NULL OR v.seq = s.seq)
