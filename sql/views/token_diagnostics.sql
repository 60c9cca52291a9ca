-- token_diagnostics: a row is a token of a run, with what the model predicted after it.
--
-- `token` stands at `pos`; `true_token` is the one after it, and true_prob, loss and the rest say how well the model, having
-- read up to `token`, foresaw it. The last token of a sequence has no next one: those columns are NULL there.
SELECT
    t.run_id,
    t.example_id,
    t.seq,
    t.pos,
    t.token_id,
    t.token,
    t.char_start,
    t.char_end,
    t.word_idx,
    t.is_special,
    p.true_id,
    p.true_token,
    p.pred_id,
    p.pred_token,
    p.correct,
    p.true_prob,
    p.pred_prob,
    p.true_rank,
    p.entropy,
    p.loss,
    p.topk_ids,
    p.topk_tokens,
    p.topk_probs,
    e.idx,
    e.dataset,
    e.split,
    e.source_id,
    e.text,
    e.n_tokens,
    e.truncated,
    r.model,
    r.dtype,
    r.created_at
FROM tokens AS t
LEFT JOIN next_token AS p USING (run_id, example_id, seq, pos)
JOIN examples AS e USING (run_id, example_id)
JOIN runs AS r USING (run_id)
