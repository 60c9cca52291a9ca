-- Do a decoder and an encoder answer the same questions right, and do they agree more than by chance?
-- run (mcq-prompt): the decoder's run
-- other_run (mcq-encoder): the encoder's run
-- needs: mcq_predictions
--
-- questions counts those that both read; the four that follow, of those, the ones with a key. same_answer counts equal choices,
-- right or wrong; by_chance is the part of equal choices expected of two that choose each letter as often as these do but
-- know nothing of each other, and Cohen's kappa the agreement beyond it: (agreement - by_chance) / (1 - by_chance) (Cohen
-- 1960). agreement has a 95 % Wilson interval over questions, as in mcq_accuracy; kappa's is the same one beyond by_chance, which
-- it takes as it is, as Cohen's own standard error does: wide enough, and too wide where both prefer a letter.
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
),
counted AS (
    SELECT
        count(b.agree) AS questions,
        count(*) FILTER (b.outcome = 'both right') AS both_right,
        count(*) FILTER (b.outcome = 'only decoder') AS only_decoder,
        count(*) FILTER (b.outcome = 'only encoder') AS only_encoder,
        count(*) FILTER (b.outcome = 'both wrong') AS both_wrong,
        count(*) FILTER (b.agree) AS same_answer,
        same_answer / nullif(questions, 0) AS agreement,
        any_value(c.by_chance) AS by_chance,
        nullif(1 - any_value(c.by_chance), 0) AS beyond,
        3.841458820694124e0 AS z2,
        same_answer + z2 / 2 AS middle,
        sqrt(z2 * (same_answer * (1 - agreement) + z2 / 4)) AS half,
        (middle - half) / (questions + z2) AS low,
        (middle + half) / (questions + z2) AS high
    FROM both_read AS b
    CROSS JOIN chance AS c
)
SELECT
    questions,
    both_right,
    only_decoder,
    only_encoder,
    both_wrong,
    same_answer,
    round(agreement, 4) AS agreement,
    round(low, 4) AS agreement_low,
    round(high, 4) AS agreement_high,
    round(by_chance, 4) AS by_chance,
    round((agreement - by_chance) / beyond, 4) AS kappa,
    round((low - by_chance) / beyond, 4) AS kappa_low,
    round((high - by_chance) / beyond, 4) AS kappa_high
FROM counted;
