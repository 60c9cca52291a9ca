-- feature_contexts: a row is a feature that is active at a token, with the token, the text around it and how well the model foresaw it.
--
-- For one feature, or a few: WHERE feature = 7 AND sae = '…' finds its tokens without reading those of the others. Dead features have no row.
SELECT
    f.source_run_id AS run_id,  -- The run that was encoded
    f.sae,
    f.layer,
    f.feature,
    f.example_id,
    f.seq,
    f.pos,
    f.activation,
    t.token,
    substring(coalesce(s.text, e.text), greatest(t.char_start - 79, 1), least(t.char_start, 80)) AS text_before,  -- The 80 characters before the token; NULL: it has no place in the text
    substring(coalesce(s.text, e.text), t.char_end + 1, 40) AS text_after,  -- The 40 characters after it
    t.is_special,
    t.is_response,
    t.role,
    t.part,
    w.upos,  -- Universal part of speech of the annotated word that the token begins in
    w.lemma,  -- Lemma of that word
    b.loss AS own_loss,  -- Loss of this very token, predicted one position before, nats
    a.loss,  -- Loss of the token that follows, predicted here, nats
    a.correct,  -- Whether the token that follows is the one that was predicted
    f.run_id AS features_run_id  -- The run that holds the activation
FROM feature_tokens AS f
JOIN dictionaries AS d ON d.run_id = f.run_id AND d.sae = f.sae
JOIN tokens AS t
    ON t.run_id = f.source_run_id AND t.example_id = f.example_id AND t.seq = f.seq AND t.pos = f.pos AND t.side = d.side
LEFT JOIN examples AS e ON e.run_id = f.source_run_id AND e.example_id = f.example_id
LEFT JOIN prompts AS s ON s.run_id = f.source_run_id AND s.example_id = f.example_id AND s.seq = f.seq
LEFT JOIN words AS w ON w.run_id = f.source_run_id AND w.example_id = f.example_id AND w.word_idx = t.word_idx
LEFT JOIN next_token AS a
    ON a.run_id = f.source_run_id AND a.example_id = f.example_id AND a.seq = f.seq AND a.pos = f.pos
LEFT JOIN next_token AS b
    ON b.run_id = f.source_run_id AND b.example_id = f.example_id AND b.seq = f.seq AND b.pos = f.pos - 1
