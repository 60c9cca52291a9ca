-- Schema version 3: words, labels, prompts, multiple choice, training; what a checkpoint lacked; which tables a run has.

CREATE TABLE prompts (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    text VARCHAR NOT NULL
);
COMMENT ON TABLE prompts IS 'One row is a sequence whose text is not its example''s own';
COMMENT ON COLUMN prompts.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN prompts.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN prompts.seq IS 'Which sequence of the example: 0, the chunk under --chunk, or the choice';
COMMENT ON COLUMN prompts.text IS 'What was tokenized; the texts of a pair with a line break between them';

CREATE TABLE words (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    word_idx INTEGER NOT NULL,
    word_id VARCHAR NOT NULL,
    form VARCHAR,
    lemma VARCHAR,
    upos VARCHAR,
    xpos VARCHAR,
    feats VARCHAR,
    head INTEGER,
    deprel VARCHAR,
    deps VARCHAR,
    multiword VARCHAR,
    char_start INTEGER,
    char_end INTEGER
);
COMMENT ON TABLE words IS 'One row is a word of an annotated data set';
COMMENT ON COLUMN words.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN words.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN words.word_idx IS 'Place among the words, 0-based, empty nodes counted';
COMMENT ON COLUMN words.word_id IS 'Its id in the data set: a number from 1, 8.1 for an empty node';
COMMENT ON COLUMN words.form IS 'The word as it stands in the sentence';
COMMENT ON COLUMN words.lemma IS 'Lemma';
COMMENT ON COLUMN words.upos IS 'Universal part of speech';
COMMENT ON COLUMN words.xpos IS 'Part of speech in the treebank''s own tag set';
COMMENT ON COLUMN words.feats IS 'Morphological features, Name=Value|Name=Value';
COMMENT ON COLUMN words.head IS 'word_idx of its syntactic head; NULL: the root, or an empty node';
COMMENT ON COLUMN words.deprel IS 'Relation to its head; root; NULL: an empty node';
COMMENT ON COLUMN words.deps IS 'Enhanced graph, word_id:relation|word_id:relation';
COMMENT ON COLUMN words.multiword IS 'The multiword token that it is part of (don''t)';
COMMENT ON COLUMN words.char_start IS 'First character in examples.text, 0-based; NULL: an empty node';
COMMENT ON COLUMN words.char_end IS 'One past its last character';

CREATE TABLE labels (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    label_id INTEGER NOT NULL,
    label VARCHAR NOT NULL
);
COMMENT ON TABLE labels IS 'One row is a label of an example';
COMMENT ON COLUMN labels.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN labels.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN labels.label_id IS 'Id of the label in the data set';
COMMENT ON COLUMN labels.label IS 'Its name';

CREATE TABLE choices (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    choice_idx INTEGER NOT NULL,
    label VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    logit FLOAT NOT NULL,
    logprob FLOAT,
    logprob_per_byte FLOAT,
    prob FLOAT NOT NULL,
    is_label BOOLEAN,
    is_pred BOOLEAN NOT NULL
);
COMMENT ON TABLE choices IS 'One row is a choice of a multiple-choice question';
COMMENT ON COLUMN choices.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN choices.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN choices.choice_idx IS 'Place among the question''s choices, 0-based';
COMMENT ON COLUMN choices.label IS 'Its letter';
COMMENT ON COLUMN choices.text IS 'Its text';
COMMENT ON COLUMN choices.logit IS 'mcq-prompt: of its letter after the prompt; mcq-encoder: of the multiple-choice head';
COMMENT ON COLUMN choices.logprob IS 'Log-probability of its text after the prompt, nats; NULL: an encoder';
COMMENT ON COLUMN choices.logprob_per_byte IS 'The same, by byte of its text in UTF-8, nats';
COMMENT ON COLUMN choices.prob IS 'Softmax over the question''s choices of the score that decides';
COMMENT ON COLUMN choices.is_label IS 'Whether it is the right one; NULL: not known';
COMMENT ON COLUMN choices.is_pred IS 'Whether it has the highest score, the first among equals';

CREATE TABLE mcq_predictions (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    score VARCHAR NOT NULL,
    label_idx INTEGER,
    label VARCHAR,
    pred_idx INTEGER NOT NULL,
    pred_label VARCHAR NOT NULL,
    is_correct BOOLEAN,
    pred_prob FLOAT NOT NULL,
    label_prob FLOAT,
    margin FLOAT NOT NULL,
    top_two_gap FLOAT NOT NULL,
    entropy FLOAT NOT NULL
);
COMMENT ON TABLE mcq_predictions IS 'One row is a multiple-choice question';
COMMENT ON COLUMN mcq_predictions.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN mcq_predictions.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN mcq_predictions.score IS 'What decides: letter, text, byte (columns of choices), or head';
COMMENT ON COLUMN mcq_predictions.label_idx IS 'choice_idx of the right choice; NULL: not known';
COMMENT ON COLUMN mcq_predictions.label IS 'Its letter';
COMMENT ON COLUMN mcq_predictions.pred_idx IS 'choice_idx of the choice with the highest score, the first among equals';
COMMENT ON COLUMN mcq_predictions.pred_label IS 'Its letter';
COMMENT ON COLUMN mcq_predictions.is_correct IS 'pred_idx = label_idx; NULL: not known';
COMMENT ON COLUMN mcq_predictions.pred_prob IS 'Probability of the predicted choice among the choices: the confidence';
COMMENT ON COLUMN mcq_predictions.label_prob IS 'Probability of the right choice';
COMMENT ON COLUMN mcq_predictions.margin IS 'Score of the predicted choice less that of the second: logits, nats or nats a byte';
COMMENT ON COLUMN mcq_predictions.top_two_gap IS 'Probability of the predicted choice less that of the second';
COMMENT ON COLUMN mcq_predictions.entropy IS 'Entropy of the probabilities of the choices, nats';

CREATE TABLE training (
    run_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,
    epoch FLOAT NOT NULL,
    split VARCHAR NOT NULL,
    loss FLOAT NOT NULL,
    accuracy FLOAT NOT NULL,
    learning_rate FLOAT
);
COMMENT ON TABLE training IS 'One row is a measurement while a model is fine-tuned';
COMMENT ON COLUMN training.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN training.step IS 'Optimizer steps done';
COMMENT ON COLUMN training.epoch IS 'Passes over the training data done';
COMMENT ON COLUMN training.split IS 'train: a mean since the row before; else the split that was evaluated';
COMMENT ON COLUMN training.loss IS 'Cross-entropy over the choices, nats';
COMMENT ON COLUMN training.accuracy IS 'Part of the questions answered right';
COMMENT ON COLUMN training.learning_rate IS 'Learning rate; NULL for an evaluation';

ALTER TABLE examples ADD COLUMN altered BOOLEAN;
ALTER TABLE examples ALTER COLUMN altered SET NOT NULL;
COMMENT ON COLUMN examples.altered IS 'Whether the tokenizer changed the text first: case, accents, white space';
ALTER TABLE runs ADD COLUMN untrained VARCHAR[];
ALTER TABLE runs ALTER COLUMN untrained SET NOT NULL;
COMMENT ON COLUMN runs.untrained IS 'Weights that the checkpoint lacked, and that are random';
ALTER TABLE runs ADD COLUMN tables VARCHAR[];
ALTER TABLE runs ALTER COLUMN tables SET NOT NULL;
COMMENT ON COLUMN runs.tables IS 'Tables that it has rows in';
ALTER TABLE tokens ADD COLUMN token_type_id INTEGER;
COMMENT ON COLUMN tokens.token_type_id IS 'Which text of a pair the model is told it is of, 0 or 1; NULL: not told';

COMMENT ON COLUMN examples.text IS 'Its text: what was tokenized, but where the table prompts has another';
COMMENT ON COLUMN heads.seq IS 'Which sequence of the example: 0, the chunk under --chunk, or the choice';
COMMENT ON COLUMN next_token.seq IS 'Which sequence of the example: 0, the chunk under --chunk, or the choice';
COMMENT ON COLUMN runs.kind IS 'What made it: next-token, encode, mcq-prompt, mcq-encoder, finetune, or heads (derived)';
COMMENT ON COLUMN runs.parents IS 'Runs it was derived from, or whose model it ran';
COMMENT ON COLUMN tensors.seq IS 'Which sequence of the example: 0, the chunk under --chunk, or the choice';
COMMENT ON COLUMN tokens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, or the choice';
COMMENT ON COLUMN tokens.char_start IS 'First character in the text, 0-based: prompts.text where there is one, or the target''s for the decoder of an encoder-decoder, else examples.text';
COMMENT ON COLUMN tokens.word_idx IS 'The word that it begins in: of the table words where the data set has words, else the tokenizer''s, 0-based; NULL: white space, or special';
