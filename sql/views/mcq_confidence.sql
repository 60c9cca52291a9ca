-- mcq_confidence: a row is a multiple-choice run and whether it was right, with how sure it was of those questions.
--
-- Means over n questions, of the columns of mcq_predictions: probabilities are among the choices, entropy is in nats, margin
-- in the unit of the run's score. A third row with is_correct NULL has the questions without a key, where there are any.
SELECT
    run_id,
    is_correct,
    any_value(score) AS score,
    count(*) AS n,
    avg(pred_prob) AS mean_pred_prob,
    avg(margin) AS mean_margin,
    avg(top_two_gap) AS mean_top_two_gap,
    avg(entropy) AS mean_entropy
FROM mcq_predictions
GROUP BY run_id, is_correct
