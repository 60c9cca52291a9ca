-- token_words: a row is a token and a word of which it has at least one character that is not white space.
--
-- Many to many, through character offsets alone: a word may have several tokens, a token the end of one word and the next
-- (`'t` of don't), and the words of a contraction that the data set gives the same characters (des, for de and les) share all
-- their tokens. tokens.word_idx names one word only, the first. Only tokens that
-- are of some word: none of an encoder-decoder's target, whose characters are not the ones that the words are of. A token that a
-- run with --stride read again is there twice, the second time with is_context.
SELECT
    t.run_id,
    t.example_id,
    t.seq,
    t.side,
    t.pos,
    t.token_id,
    t.token,
    w.word_idx,  -- The word, by its place among the words, 0-based, empty nodes counted
    w.word_id,
    w.form,
    w.lemma,
    w.upos,
    w.xpos,
    w.feats,
    w.head,
    w.deprel,
    w.multiword,
    t.word_idx = w.word_idx AS starts,  -- Whether the token begins in this word: tokens.word_idx names it
    coalesce(t.is_context, false) AS is_context,  -- Read again, as context, with --stride: an earlier sequence of the example has the same token
    t.char_start,
    t.char_end,
    w.char_start AS word_start,  -- First character of the word in examples.text, 0-based
    w.char_end AS word_end  -- One past its last character
FROM tokens AS t
JOIN words AS w
    ON w.run_id = t.run_id
    AND w.example_id = t.example_id
    AND w.char_start < t.char_end
    AND w.char_end > t.char_start
JOIN examples AS e ON e.run_id = t.run_id AND e.example_id = t.example_id
WHERE
    t.word_idx IS NOT NULL
    -- Unicode's white space, as Python's str.isspace has it: \s of a regular expression is ASCII's alone.
    AND regexp_matches(
        substring(
            e.text,
            greatest(t.char_start, w.char_start) + 1,
            least(t.char_end, w.char_end) - greatest(t.char_start, w.char_start)
        ),
        '[^\t-\r\x1c-\x1f\x{85}\p{Z}]'
    )
