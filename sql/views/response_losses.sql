-- response_losses: a row is a sequence with predictions: how sure the model was of what was answered in it.
--
-- Means are over the tokens of the response, of a chat those that the assistant says; where there is neither, over all that are predicted.
WITH by_sequence AS (
    SELECT
        p.run_id,
        p.example_id,
        p.seq,
        count(*) AS predictions,
        avg(p.loss) AS loss,
        avg(p.entropy) AS entropy,
        count(*) FILTER (t.is_response OR (t.role = 'assistant' AND t.part IS NOT NULL)) AS of_response,
        avg(p.loss) FILTER (t.is_response OR (t.role = 'assistant' AND t.part IS NOT NULL)) AS response_loss,
        avg(p.entropy) FILTER (t.is_response OR (t.role = 'assistant' AND t.part IS NOT NULL)) AS response_entropy
    FROM next_token AS p
    JOIN tokens AS t ON t.run_id = p.run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos + 1
    WHERE t.side = 'dec'
    GROUP BY p.run_id, p.example_id, p.seq
)
SELECT
    run_id,
    example_id,
    seq,
    of_response > 0 AS has_response,  -- Whether the means are over a response, not over the whole sequence
    CASE WHEN of_response > 0 THEN of_response ELSE predictions END AS predictions,  -- How many they are over
    coalesce(response_loss, loss) AS loss,  -- Mean loss, nats
    coalesce(response_entropy, entropy) AS entropy  -- Mean entropy, nats
FROM by_sequence
