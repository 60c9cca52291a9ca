-- At which parts of speech do two models differ?
-- run (comparison): the comparison
-- needs: comparisons
--
-- upos is of the word that the next token begins; NULL: the data set has no words, or a token of none comes next. kl is KL(first || other), mean_loss_difference of the other's
-- loss less the first's, nats: below 0, the other foresees these better.
SELECT
    true_upos AS upos,
    count(*) AS tokens,
    round(nullif(avg(kl), 'NaN'), 4) AS mean_kl,
    round(nullif(median(kl), 'NaN'), 4) AS median_kl,
    round(avg(CAST(top1_changed AS INTEGER)), 3) AS top1_changed,
    round(nullif(avg(loss_difference), 'NaN'), 4) AS mean_loss_difference
FROM comparison_tokens
WHERE run_id = getvariable('run') AND true_token IS NOT NULL
GROUP BY true_upos
ORDER BY mean_kl DESC NULLS LAST, abs(mean_loss_difference) DESC NULLS LAST, upos;
