-- sequence_losses: a row is a sequence with predictions: what they cost together, and the bytes of text that they are of.
--
-- A token's text is what its offsets and those before it leave between them, so that white space counts whether a tokenizer's
-- offsets tell of it or not, and the bytes of a character count once; a special token has none, and so has what is not predicted, such
-- as a text's first token.
WITH predicted AS (
    SELECT run_id, example_id, seq, count(*) AS predictions, min(pos) AS first_pos, sum(loss::DOUBLE) AS loss
    FROM next_token
    GROUP BY run_id, example_id, seq
),
ends AS (
    SELECT run_id, example_id, seq, min(char_start) AS char_start, max(char_end) AS char_end, bool_and(is_special) AS is_special
    FROM tokens
    WHERE side = 'dec'
    GROUP BY run_id, example_id, seq
),
read_before AS (
    SELECT run_id, example_id, seq, max(t.char_end) AS char_end
    FROM predicted AS p
    JOIN tokens AS t USING (run_id, example_id, seq)
    WHERE
        t.side = 'dec'
        AND t.pos <= p.first_pos
        AND t.pos <= (SELECT max(first_pos) FROM predicted)  -- few rows are left to join
    GROUP BY run_id, example_id, seq
),
spans AS (
    SELECT
        run_id,
        example_id,
        seq,
        p.predictions,
        p.loss,
        coalesce(b.char_end, e.char_start) AS char_start,
        coalesce(e.char_end, CASE WHEN e.is_special THEN 0 END) AS char_end
    FROM predicted AS p
    JOIN ends AS e USING (run_id, example_id, seq)
    LEFT JOIN read_before AS b USING (run_id, example_id, seq)
),
texts AS (
    SELECT
        s.run_id,
        s.example_id,
        s.seq,
        s.predictions,
        s.loss,
        CASE WHEN r.target_column IS NULL THEN coalesce(p.text, e.text) ELSE e.metadata::JSON ->> r.target_column END AS text,
        coalesce(s.char_start, 0) AS char_start,
        s.char_end
    FROM spans AS s
    JOIN runs AS r USING (run_id)
    JOIN examples AS e USING (run_id, example_id)
    LEFT JOIN prompts AS p USING (run_id, example_id, seq)
)
SELECT
    run_id,
    example_id,
    seq,
    predictions,  -- Positions that have a next token
    loss,  -- Sum of their losses, nats
    strlen(substring(text, char_start + 1, char_end - char_start)) AS text_bytes,  -- UTF-8 bytes of the text that was predicted; NULL: the tokenizer tells no offsets
    loss / ln(2) / nullif(strlen(substring(text, char_start + 1, char_end - char_start)), 0) AS bits_per_byte  -- loss / ln 2 / text_bytes: what the predictions cost by byte of text, which models with different tokenizers share
FROM texts
