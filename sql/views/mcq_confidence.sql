-- mcq_confidence: a row is a multiple-choice run and whether it was right, with how sure it was of those questions.
--
-- A third row with is_correct NULL has the questions without a key, where there are any.
SELECT
    run_id,
    is_correct,  -- Whether these are the questions that it got right; NULL: those without a key
    any_value(score) AS score,  -- What decides: letter, text, byte (columns of choices), or head
    count(*) AS n,  -- Questions
    avg(pred_prob) AS mean_pred_prob,  -- Mean probability of the predicted choice among the choices: the confidence
    avg(margin) AS mean_margin,  -- Mean distance from the predicted choice's score to the second's: logits, nats or nats a byte, as score is
    avg(top_two_gap) AS mean_top_two_gap,  -- Mean distance from the predicted choice's probability to the second's
    avg(entropy) AS mean_entropy  -- Mean entropy of the probabilities of the choices, nats
FROM mcq_predictions
GROUP BY run_id, is_correct
