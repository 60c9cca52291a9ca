-- Which token does the model most often predict where another one comes?
-- run: the run asked about
-- needs: next_token
SELECT
    true_token,
    pred_token,
    count(*) AS times,
    round(avg(pred_prob), 3) AS mean_pred_prob,
    round(avg(true_prob), 3) AS mean_true_prob
FROM next_token
WHERE run_id = getvariable('run') AND NOT correct
GROUP BY true_token, pred_token
ORDER BY times DESC, true_token, pred_token
LIMIT 20;
