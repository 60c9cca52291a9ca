-- mcq_agreement: a row is a question that a decoder (kind mcq-prompt) and an encoder (kind mcq-encoder) both read.
--
-- Every pair of two such runs is here that have questions in common: name both of them in WHERE. The columns about the label and
-- about who is right are NULL for a question without a key.
SELECT
    d.example_id,
    x.idx,
    x.dataset,
    x.split,
    x.text AS question,  -- The text of the question
    d.run_id AS decoder_run_id,  -- The decoder's run
    e.run_id AS encoder_run_id,  -- The encoder's run
    d.label_idx,
    d.label,
    key.text AS label_text,  -- Text of the right choice
    d.pred_idx AS decoder_pred_idx,  -- choice_idx of the choice that the decoder prefers, the first among equals
    d.pred_label AS decoder_pred_label,  -- Its letter
    decoders.text AS decoder_pred_text,  -- Its text
    d.pred_prob AS decoder_pred_prob,  -- Its probability among the choices: the confidence
    d.label_prob AS decoder_label_prob,  -- Probability of the right choice, for the decoder
    d.entropy AS decoder_entropy,  -- Entropy of the probabilities of the choices, nats
    d.is_correct AS decoder_correct,  -- Whether the decoder is right; NULL: not known
    e.pred_idx AS encoder_pred_idx,  -- choice_idx of the choice that the encoder prefers, the first among equals
    e.pred_label AS encoder_pred_label,  -- Its letter
    encoders.text AS encoder_pred_text,  -- Its text
    e.pred_prob AS encoder_pred_prob,  -- Its probability among the choices: the confidence
    e.label_prob AS encoder_label_prob,  -- Probability of the right choice, for the encoder
    e.entropy AS encoder_entropy,  -- Entropy of the probabilities of the choices, nats
    e.is_correct AS encoder_correct,  -- Whether the encoder is right; NULL: not known
    d.pred_idx = e.pred_idx AS agree,  -- Whether both chose the same answer, right or wrong
    d.is_correct AND e.is_correct AS both_correct,  -- Whether both are right; NULL: not known
    CASE
        WHEN d.is_correct AND e.is_correct THEN 'both right'
        WHEN d.is_correct AND NOT e.is_correct THEN 'only decoder'
        WHEN NOT d.is_correct AND e.is_correct THEN 'only encoder'
        WHEN NOT d.is_correct AND NOT e.is_correct THEN 'both wrong'
    END AS outcome  -- Who is right: both right, only decoder, only encoder or both wrong; NULL: not known
FROM mcq_predictions AS d
JOIN runs AS dr ON dr.run_id = d.run_id AND dr.kind = 'mcq-prompt'
JOIN mcq_predictions AS e ON e.example_id = d.example_id
JOIN runs AS er ON er.run_id = e.run_id AND er.kind = 'mcq-encoder'
JOIN examples AS x ON x.run_id = d.run_id AND x.example_id = d.example_id
LEFT JOIN choices AS key
    ON key.run_id = d.run_id AND key.example_id = d.example_id AND key.choice_idx = d.label_idx
LEFT JOIN choices AS decoders
    ON decoders.run_id = d.run_id AND decoders.example_id = d.example_id AND decoders.choice_idx = d.pred_idx
LEFT JOIN choices AS encoders
    ON encoders.run_id = e.run_id AND encoders.example_id = e.example_id AND encoders.choice_idx = e.pred_idx
