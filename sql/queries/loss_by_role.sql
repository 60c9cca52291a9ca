-- Whose words does the model foresee, in a chat? Loss (nats) by role, and by content, reasoning, tool calls, and the template around them.
-- run: the run asked about
-- needs: messages, next_token
--
-- part is NULL for what the chat template puts around a message, which is foreseen almost always: leave it out of means over a role.
SELECT
    role,
    part,
    count(*) AS tokens,
    round(avg(loss), 3) AS mean_loss,
    round(exp(avg(loss)), 2) AS perplexity,
    round(avg(entropy), 3) AS mean_entropy,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy
FROM chat_tokens
WHERE run_id = getvariable('run') AND loss IS NOT NULL
GROUP BY role, part
ORDER BY role, part NULLS LAST;
