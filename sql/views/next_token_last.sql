-- next_token_last: a row is a sequence, with its last prediction: the one from the token before the last.
SELECT
    run_id,
    example_id,
    seq,
    pos,
    true_id,
    true_token,
    pred_id,
    pred_token,
    correct,
    true_prob,
    pred_prob,
    true_rank,
    entropy,
    loss,
    topk_ids,
    topk_tokens,
    topk_probs
FROM next_token
JOIN (
    SELECT run_id, example_id, seq, max(pos) AS pos
    FROM next_token
    GROUP BY run_id, example_id, seq
) AS last USING (run_id, example_id, seq, pos)
