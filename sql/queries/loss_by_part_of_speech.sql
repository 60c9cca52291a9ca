-- Which parts of speech are hardest to foresee? Loss and entropy (nats) by the universal tag of the word that was to come.
-- run: the run asked about
-- needs: words, next_token
--
-- tokens counts the predicted tokens that begin in such a word, and all but word_loss are means over those; word_loss is the
-- mean surprisal of a whole word, over the words of word_diagnostics that have one (words of them).
WITH by_token AS (
    SELECT
        true_upos AS upos,
        count(*) AS tokens,
        avg(loss) AS mean_loss,
        avg(entropy) AS mean_entropy,
        avg(CAST(correct AS INTEGER)) AS accuracy
    FROM token_diagnostics
    WHERE run_id = getvariable('run') AND true_upos IS NOT NULL
    GROUP BY true_upos
),
by_word AS (
    SELECT upos, count(loss) AS words, avg(loss) AS word_loss
    FROM word_diagnostics
    WHERE run_id = getvariable('run')
    GROUP BY upos
)
SELECT
    t.upos,
    w.words,
    t.tokens,
    round(t.mean_loss, 3) AS mean_loss,
    round(w.word_loss, 3) AS word_loss,
    round(t.mean_entropy, 3) AS mean_entropy,
    round(exp(t.mean_loss), 2) AS perplexity,
    round(t.accuracy, 3) AS accuracy
FROM by_token AS t
JOIN by_word AS w USING (upos)
ORDER BY t.mean_loss DESC, t.upos;
