-- Which parts of speech are hardest to foresee? Loss and entropy (nats) by the universal tag of the word that was to come.
-- run: the run asked about
-- needs: words, next_token
--
-- tokens counts the predicted tokens that begin in such a word, and all but word_loss are means over those; word_loss is the
-- mean surprisal of a whole word, over the words that have one (words of them), as in word_diagnostics.
WITH by_word AS (
    SELECT
        w.upos,
        count(p.loss) AS tokens,
        sum(p.loss) AS loss,
        sum(p.entropy) AS entropy,
        sum(CAST(p.correct AS INTEGER)) AS correct,
        count(p.loss) = count(*) AND max(t.char_end) >= any_value(w.char_end) AS is_whole
    FROM tokens AS t
    JOIN words AS w USING (run_id, example_id, word_idx)
    LEFT JOIN next_token AS p
        ON p.run_id = t.run_id AND p.example_id = t.example_id AND p.seq = t.seq AND p.pos = t.pos - 1
    WHERE
        t.run_id = getvariable('run')
        AND t.side = 'dec'
        AND NOT coalesce(t.is_context, false)
        AND w.upos IS NOT NULL
    GROUP BY t.example_id, t.word_idx, w.upos
)
SELECT
    upos,
    count(*) FILTER (is_whole) AS words,
    sum(tokens)::BIGINT AS tokens,
    round(sum(loss) / sum(tokens), 3) AS mean_loss,
    round(avg(loss) FILTER (is_whole), 3) AS word_loss,
    round(sum(entropy) / sum(tokens), 3) AS mean_entropy,
    round(exp(sum(loss) / sum(tokens)), 2) AS perplexity,
    round(sum(correct) / sum(tokens), 3) AS accuracy
FROM by_word
GROUP BY upos
HAVING sum(tokens) > 0
ORDER BY sum(loss) / sum(tokens) DESC, upos;
