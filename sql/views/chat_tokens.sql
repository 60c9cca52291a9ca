-- chat_tokens: a row is a token of a message of a chat, with how well the model foresaw it.
--
-- loss and the rest are those of the prediction of this token, which the token before it made: in token_diagnostics they stand beside
-- that one. They are NULL where nothing came before it, as for a first token, and for an encoder's tokens. What the chat template
-- writes of its own accord, such as a system message that the chat lacks, is in no message and in no row.
SELECT
    t.run_id,
    t.example_id,
    t.seq,
    t.side,
    t.pos,
    t.turn,
    t.role,
    t.part,
    t.token,
    t.is_response,
    p.loss,
    p.true_prob,
    p.true_rank,
    p.entropy,
    p.correct,
    p.pred_token
FROM tokens AS t
LEFT JOIN next_token AS p
    ON p.run_id = t.run_id AND p.example_id = t.example_id AND p.seq = t.seq
    AND p.pos = CASE WHEN t.side = 'dec' THEN t.pos - 1 END
WHERE t.turn IS NOT NULL AND NOT coalesce(t.is_context, false)
