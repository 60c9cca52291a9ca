-- Does a chat get easier to foresee as it goes on? Loss (nats) of what is said, turn by turn.
-- run: the run asked about
-- needs: messages, next_token
SELECT
    turn,
    role,
    count(DISTINCT example_id) AS chats,
    count(*) AS tokens,
    round(avg(loss), 3) AS mean_loss,
    round(exp(avg(loss)), 2) AS perplexity,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy
FROM chat_tokens
WHERE run_id = getvariable('run') AND loss IS NOT NULL AND part IS NOT NULL
GROUP BY turn, role
ORDER BY turn, role;
