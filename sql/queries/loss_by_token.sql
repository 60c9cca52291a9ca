-- Which tokens are hardest to foresee? Mean loss by true token, of those that came at least five times.
-- run: the run asked about
-- needs: next_token
SELECT
    true_token,
    count(*) AS times,
    round(avg(loss), 3) AS mean_loss,
    round(avg(CAST(correct AS INTEGER)), 3) AS accuracy,
    round(sum(loss), 1) AS total_loss
FROM next_token
WHERE run_id = getvariable('run')
GROUP BY true_token
HAVING count(*) >= 5
ORDER BY mean_loss DESC, true_token
LIMIT 20;
