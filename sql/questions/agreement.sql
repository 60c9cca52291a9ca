-- Do a decoder and an encoder answer the same questions right, and do they agree more than by chance?
-- run (mcq-prompt): the decoder's run
-- other_run (mcq-encoder): the encoder's run
-- needs: mcq_predictions
--
-- questions counts those that both read; the four that follow, of those, the ones with a key. same_answer counts equal choices,
-- right or wrong; by_chance is the part of equal choices expected of two that choose each letter as often as these do but
-- know nothing of each other, and Cohen's kappa the agreement beyond it: (agreement - by_chance) / (1 - by_chance) (Cohen
-- 1960).
WITH both_read AS (
    SELECT decoder_pred_idx, encoder_pred_idx, agree, outcome
    FROM mcq_agreement
    WHERE decoder_run_id = getvariable('run') AND encoder_run_id = getvariable('other_run')
),
chance AS (
    SELECT sum(coalesce(d.share * e.share, 0)) AS by_chance
    FROM (
        SELECT decoder_pred_idx AS choice, count(*) / sum(count(*)) OVER () AS share
        FROM both_read
        GROUP BY decoder_pred_idx
    ) AS d
    FULL JOIN (
        SELECT encoder_pred_idx AS choice, count(*) / sum(count(*)) OVER () AS share
        FROM both_read
        GROUP BY encoder_pred_idx
    ) AS e USING (choice)
)
SELECT
    count(b.agree) AS questions,
    count(*) FILTER (b.outcome = 'both right') AS both_right,
    count(*) FILTER (b.outcome = 'only decoder') AS only_decoder,
    count(*) FILTER (b.outcome = 'only encoder') AS only_encoder,
    count(*) FILTER (b.outcome = 'both wrong') AS both_wrong,
    count(*) FILTER (b.agree) AS same_answer,
    round(avg(CAST(b.agree AS INTEGER)), 4) AS agreement,
    round(any_value(c.by_chance), 4) AS by_chance,
    round((avg(CAST(b.agree AS INTEGER)) - any_value(c.by_chance)) / nullif(1 - any_value(c.by_chance), 0), 4) AS kappa
FROM both_read AS b
CROSS JOIN chance AS c;
