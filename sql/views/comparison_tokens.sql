-- comparison_tokens: a row is a token that two models both read, with the next one and what each of the two predicts there.
--
-- token stands at pos; true_token is the one after it in the first run, which loss and the columns about the next token go with. Rows of
-- models with other tokenizers stand where a span of text ends that both cut alike: their losses are of the text up to the next row.
SELECT
    c.run_id,
    c.source_run_id,
    c.other_run_id,
    c.example_id,
    c.seq,
    c.pos,
    c.other_pos,
    t.token,
    n.token AS true_token,  -- The token at pos + 1; NULL: there is none, or another window of the text predicts it
    w.upos AS true_upos,  -- Universal part of speech of the word that true_token begins in; NULL: the data set has no words
    n.role AS true_role,  -- Who says true_token, where the text is a chat
    n.turn AS true_turn,  -- The message that it is of
    n.part AS true_part,  -- What of the message it is: content, reasoning, tool_calls; NULL: what the template puts around those
    c.kl,
    c.kl_reverse,
    c.top1_id,
    c.top1_token,
    c.top1_prob,
    c.other_top1_id,
    c.other_top1_token,
    c.other_top1_prob,
    c.top1_id <> c.other_top1_id AS top1_changed,  -- Whether the two find another token most probable; NULL as kl
    c.loss,
    c.other_loss,
    CASE
        WHEN isfinite(c.loss) OR isfinite(c.other_loss) THEN c.other_loss - c.loss
    END AS loss_difference  -- other_loss less loss, nats: below 0, the text costs the other model less; NULL: both rule it out, or a loss is NULL
FROM comparisons AS c
JOIN tokens AS t
    ON t.run_id = c.source_run_id AND t.example_id = c.example_id AND t.seq = c.seq AND t.pos = c.pos AND t.side = 'dec'
LEFT JOIN (
    SELECT run_id, example_id, seq, pos - 1 AS pos, token, role, turn, part, word_idx
    FROM tokens
    WHERE side = 'dec' AND NOT coalesce(is_context, false)
) AS n ON n.run_id = c.source_run_id AND n.example_id = c.example_id AND n.seq = c.seq AND n.pos = c.pos
LEFT JOIN words AS w ON w.run_id = c.source_run_id AND w.example_id = c.example_id AND w.word_idx = n.word_idx
