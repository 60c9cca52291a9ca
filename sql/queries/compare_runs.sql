-- On which examples, read by both runs, do two runs differ most in what their predictions cost?
-- run: the one
-- other_run: the other
-- needs: next_token
--
-- By bits per byte of text, which models with different tokenizers share. The mean losses beside them are nats a token, of each
-- run's own tokens: comparable where both cut the text alike. Bits are NULL where a tokenizer tells no offsets,
-- and so is the difference of two infinite ones (a token came that the model rules out).
WITH by_example AS (
    SELECT
        run_id,
        example_id,
        sum(loss) / sum(predictions) AS mean_loss,
        sum(predictions) AS predictions,
        CASE WHEN count(*) = count(text_bytes) THEN sum(loss) / ln(2) / nullif(sum(text_bytes), 0) END AS bits_per_byte
    FROM sequence_losses
    WHERE run_id IN (getvariable('run'), getvariable('other_run'))
    GROUP BY run_id, example_id
)
SELECT
    a.example_id,
    round(a.bits_per_byte, 3) AS run_bits_per_byte,
    round(b.bits_per_byte, 3) AS other_bits_per_byte,
    round(nullif(a.bits_per_byte - b.bits_per_byte, 'NaN'), 3) AS difference,
    round(a.mean_loss, 3) AS run_loss,
    round(b.mean_loss, 3) AS other_loss,
    a.predictions AS run_predictions,
    b.predictions AS other_predictions,
    e.text[:60] AS text
FROM by_example AS a
JOIN by_example AS b ON b.example_id = a.example_id AND b.run_id = getvariable('other_run')
JOIN examples AS e ON e.run_id = a.run_id AND e.example_id = a.example_id
WHERE a.run_id = getvariable('run')
ORDER BY
    abs(nullif(a.bits_per_byte - b.bits_per_byte, 'NaN')) DESC NULLS LAST,
    abs(nullif(a.mean_loss - b.mean_loss, 'NaN')) DESC NULLS LAST,
    a.example_id
LIMIT 20;
