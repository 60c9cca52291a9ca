-- word_diagnostics: a row is an annotated word of a run with predictions, with how well the model foresaw it.
--
-- Its tokens are those that begin in it (tokens.word_idx): each token counts for one word only, so that the losses of an
-- example's words add up to that of their tokens. A word that no token begins in has n_tokens = 0: it lies behind --max-len, is
-- an empty node, or shares its tokens with the word before. The loss of a word is its surprisal (Hale 2001; Levy 2008).
SELECT
    w.run_id,
    w.example_id,
    w.word_idx,
    w.word_id,
    w.form,
    w.lemma,
    w.upos,
    w.xpos,
    w.feats,
    w.head,
    w.deprel,
    w.deps,
    w.multiword,
    w.char_start,
    w.char_end,
    coalesce(s.n_tokens, 0) AS n_tokens,  -- Tokens that begin in it
    coalesce(s.n_predicted, 0) AS n_predicted,  -- Those of them that the model predicted: nothing comes before the first token of a sequence
    CASE WHEN s.n_predicted = s.n_tokens AND s.reaches >= w.char_end THEN s.loss END AS loss,  -- Sum of the losses of its tokens, nats: its surprisal given what came before; NULL: not all of it was predicted, or --max-len cut it off
    CASE WHEN s.n_predicted = s.n_tokens AND s.reaches >= w.char_end THEN s.correct END AS correct,  -- Whether every token of it was the most probable one; NULL where loss is
    s.mean_entropy  -- Mean entropy of the predictions of its tokens, nats; NULL: none was predicted
FROM words AS w
JOIN runs AS r ON r.run_id = w.run_id AND list_contains(r.tables, 'next_token')
LEFT JOIN (
    SELECT
        t.run_id,
        t.example_id,
        t.word_idx,
        count(*) AS n_tokens,
        count(p.loss) AS n_predicted,
        max(t.char_end) AS reaches,
        sum(p.loss) AS loss,
        avg(p.entropy) AS mean_entropy,
        bool_and(p.correct) AS correct
    FROM tokens AS t
    JOIN words AS v USING (run_id, example_id, word_idx)
    LEFT JOIN next_token AS p
        ON p.run_id = t.run_id AND p.example_id = t.example_id AND p.seq = t.seq AND p.pos = t.pos - 1
    WHERE t.side = 'dec' AND NOT coalesce(t.is_context, false)
    GROUP BY t.run_id, t.example_id, t.word_idx
) AS s ON s.run_id = w.run_id AND s.example_id = w.example_id AND s.word_idx = w.word_idx
