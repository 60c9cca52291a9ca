-- Where do two models differ most about the next token?
-- run (comparison): the comparison
-- needs: comparisons
--
-- By KL(first || other), nats; where that is not known, as with other tokenizers, by the difference of losses. before is the text up to
-- the token that both read last, true_token what comes next.
WITH chosen AS (
    SELECT
        source_run_id,
        example_id,
        seq,
        pos,
        kl,
        top1_token,
        top1_prob,
        other_top1_token,
        other_top1_prob,
        loss,
        other_loss
    FROM comparisons
    WHERE run_id = getvariable('run')
    ORDER BY kl DESC NULLS LAST, abs(other_loss - loss) DESC NULLS LAST, example_id, seq, pos
    LIMIT 20
)
SELECT
    replace(substr(t.text, greatest(t.char_end - 24, 1), least(t.char_end, 25)), chr(10), ' ') AS before,
    n.token AS true_token,
    round(c.kl, 3) AS kl,
    c.top1_token AS predicts,
    round(c.top1_prob, 3) AS prob,
    c.other_top1_token AS other_predicts,
    round(c.other_top1_prob, 3) AS other_prob,
    round(c.loss, 2) AS loss,
    round(c.other_loss, 2) AS other_loss,
    c.example_id,
    c.seq,
    c.pos
FROM chosen AS c
JOIN token_texts AS t
    ON t.run_id = c.source_run_id AND t.example_id = c.example_id AND t.seq = c.seq AND t.pos = c.pos AND t.side = 'dec'
LEFT JOIN tokens AS n
    ON n.run_id = c.source_run_id AND n.example_id = c.example_id AND n.seq = c.seq AND n.pos = c.pos + 1 AND n.side = t.side
ORDER BY c.kl DESC NULLS LAST, abs(c.other_loss - c.loss) DESC NULLS LAST, c.example_id, c.seq, c.pos;
