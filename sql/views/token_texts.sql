-- token_texts: a row is a token of a run, with the text that it stands in.
--
-- For tokens that were chosen before: over a large run, choose rows of next_token, then join this view to those that are left.
-- token_diagnostics tells more of a token, and joins all of it for every token, whatever a query uses.
SELECT
    t.run_id,
    t.example_id,
    t.seq,
    t.side,
    t.pos,
    t.token,
    t.char_start,
    t.char_end,
    coalesce(s.text, e.text) AS text  -- The text that char_start and char_end count in: the example's, or the sequence's own where the table prompts has one
FROM tokens AS t
JOIN examples AS e ON e.run_id = t.run_id AND e.example_id = t.example_id
LEFT JOIN prompts AS s ON s.run_id = t.run_id AND s.example_id = t.example_id AND s.seq = t.seq
