-- token_diagnostics: a row is a token of a run, with what the model predicted after it.
--
-- `token` stands at `pos`; `true_token` is the one after it, and true_prob, loss and the rest say how well the model, having
-- read up to `token`, foresaw it. The last token of a sequence has no next one, and an encoder's tokens (side 'enc') have none:
-- those columns are NULL there. So are they before a token with is_context: a run with --stride read that again, and an earlier
-- sequence has it with its prediction, so that tokens are counted without those.
--
-- Everything is joined to every token, whatever a query uses of it. Over a large run, choose rows of next_token or tokens first;
-- token_texts has the texts of those that are left.
--
-- The columns about words are NULL where the data set has no annotated words, and for a token that is of none. A token that several
-- words share counts for the first of them: token_words has them all. trait_tokens has the rest of what is known of projections.
SELECT
    t.run_id,
    t.example_id,
    t.seq,
    t.side,
    t.pos,
    t.token_id,
    t.token,
    t.char_start,
    t.char_end,
    t.word_idx,
    w.upos,  -- Universal part of speech of the word that token begins in
    w.lemma,  -- Lemma of that word
    w.deprel,  -- Relation of that word to its head
    t.is_special,
    t.is_response,
    coalesce(t.is_context, false) AS is_context,  -- Read again, as context: with --stride, an earlier sequence of the example has the same token, and its prediction; count tokens without these
    t.role,  -- Who says token, where the text is a chat
    t.turn,  -- The message that it is of
    t.part,  -- What of the message it is: content, reasoning, tool_calls; NULL: what the template puts around those
    p.true_id,
    p.true_token,
    n.upos AS true_upos,  -- Universal part of speech of the word that true_token begins in: the one that loss and entropy go with
    n.lemma AS true_lemma,  -- Lemma of that word
    n.deprel AS true_deprel,  -- Relation of that word to its head
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
    coalesce(s.text, e.text) AS text,  -- The text that char_start and char_end count in: the example's, or the sequence's own where the table prompts has one
    replace(
        substr(coalesce(s.text, e.text), greatest(t.char_start - 39, 1), least(t.char_start, 40))
        || '«' || substr(coalesce(s.text, e.text), t.char_start + 1, t.char_end - t.char_start) || '»'
        || substr(coalesce(s.text, e.text), t.char_end + 1, 40),
        chr(10),
        ' '
    ) AS context,  -- The token, in «», with up to 40 characters of the text on either side; NULL: it has no place in the text
    e.n_tokens,
    e.truncated,
    x.trait_projections,  -- Trait → projection of the token on its vector, of the newest projection of the run: trait_projections['humorous']; NULL: none
    r.model,
    r.dtype,
    r.created_at
FROM tokens AS t
LEFT JOIN next_token AS p
    ON p.run_id = t.run_id AND p.example_id = t.example_id AND p.seq = t.seq
    AND p.pos = CASE WHEN t.side = 'dec' THEN t.pos END
LEFT JOIN words AS w ON w.run_id = t.run_id AND w.example_id = t.example_id AND w.word_idx = t.word_idx
LEFT JOIN (
    SELECT a.run_id, a.example_id, a.seq, a.side, a.pos - 1 AS pos, b.upos, b.lemma, b.deprel
    FROM tokens AS a
    JOIN words AS b USING (run_id, example_id, word_idx)
    WHERE NOT coalesce(a.is_context, false)
) AS n ON n.run_id = t.run_id AND n.example_id = t.example_id AND n.seq = t.seq AND n.side = t.side AND n.pos = t.pos
JOIN examples AS e ON e.run_id = t.run_id AND e.example_id = t.example_id
LEFT JOIN prompts AS s ON s.run_id = t.run_id AND s.example_id = t.example_id AND s.seq = t.seq
JOIN runs AS r ON r.run_id = t.run_id
LEFT JOIN (
    SELECT source_run_id, example_id, seq, pos, map(list(trait), list(projection)) AS trait_projections
    FROM newest_trait_projections
    WHERE is_first
    GROUP BY source_run_id, example_id, seq, pos
) AS x
    ON x.source_run_id = t.run_id AND x.example_id = t.example_id AND x.seq = t.seq
    AND x.pos = CASE WHEN t.side = 'dec' THEN t.pos END
