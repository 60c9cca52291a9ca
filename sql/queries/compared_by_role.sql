-- Do two models differ more about what one side of a chat says than about the other's?
-- run (comparison): the comparison
-- needs: comparisons
--
-- role NULL: the text is no chat, or the template's own marks come next. kl is KL(first || other), mean_loss_difference of the other's
-- loss less the first's, nats: below 0, the other foresees these better.
SELECT
    true_role AS role,
    count(*) AS tokens,
    round(nullif(avg(kl), 'NaN'), 4) AS mean_kl,
    round(nullif(median(kl), 'NaN'), 4) AS median_kl,
    round(avg(CAST(top1_changed AS INTEGER)), 3) AS top1_changed,
    round(nullif(avg(loss_difference), 'NaN'), 4) AS mean_loss_difference
FROM comparison_tokens
WHERE run_id = getvariable('run') AND true_token IS NOT NULL
GROUP BY true_role
ORDER BY mean_kl DESC NULLS LAST, abs(mean_loss_difference) DESC NULLS LAST, role;
