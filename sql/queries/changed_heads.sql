-- Which attention heads changed most between two models?
-- run (comparison): the comparison
-- needs: head_changes
--
-- js is the mean Jensen-Shannon divergence of the two models' rows of attention, nats, with its 95 % interval; top_changed the part of the
-- rows in which another token gets the most attention; write_change how much of what the head writes is another.
SELECT
    layer,
    head,
    round(js, 5) AS js,
    round(js_low, 5) AS js_low,
    round(js_high, 5) AS js_high,
    round(top_changed, 3) AS top_changed,
    round(write_change, 3) AS write_change,
    n_tokens
FROM head_changes
WHERE run_id = getvariable('run')
ORDER BY head_changes.js DESC, layer, head
LIMIT 20;
