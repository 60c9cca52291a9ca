-- Schema version 4: probes; what tells one space of vectors from another.

CREATE TABLE probes (
    run_id VARCHAR NOT NULL,
    side VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    layer INTEGER,
    head INTEGER,
    classes VARCHAR[] NOT NULL,
    n_train INTEGER NOT NULL,
    n_test INTEGER NOT NULL,
    accuracy FLOAT NOT NULL,
    train_accuracy FLOAT NOT NULL,
    majority_accuracy FLOAT NOT NULL,
    shuffled_accuracy FLOAT NOT NULL,
    blob VARCHAR NOT NULL,
    tensor VARCHAR NOT NULL
);
COMMENT ON TABLE probes IS 'One row is a probe: a logistic regression from the vectors of a layer to labels, judged on examples that it has not seen';
COMMENT ON COLUMN probes.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN probes.side IS '''dec'' or ''enc'': the stack of the model';
COMMENT ON COLUMN probes.site IS 'What was probed: resid.post_mlp, q, …';
COMMENT ON COLUMN probes.layer IS 'Layer, 0-based; NULL for resid.embed';
COMMENT ON COLUMN probes.head IS 'Query head; NULL: the site has none';
COMMENT ON COLUMN probes.classes IS 'The labels, in the order of the coefficients'' rows';
COMMENT ON COLUMN probes.n_train IS 'Tokens that it was fitted to';
COMMENT ON COLUMN probes.n_test IS 'Tokens that it was judged on, all of other examples';
COMMENT ON COLUMN probes.accuracy IS 'Part of the test tokens whose label it gives';
COMMENT ON COLUMN probes.train_accuracy IS 'The same of the training tokens';
COMMENT ON COLUMN probes.majority_accuracy IS 'Part of the test tokens that have the commonest training label';
COMMENT ON COLUMN probes.shuffled_accuracy IS 'Accuracy on the test tokens after fitting to shuffled labels';
COMMENT ON COLUMN probes.blob IS 'File of its coefficients, relative to the run''s folder';
COMMENT ON COLUMN probes.tensor IS 'Their name there: (classes, width + 1), the last column the intercepts';

ALTER TABLE runs ADD COLUMN body_hash VARCHAR;
ALTER TABLE runs ALTER COLUMN body_hash SET NOT NULL;
COMMENT ON COLUMN runs.body_hash IS 'The same without the head: what tells one space of vectors from another';
COMMENT ON COLUMN runs.kind IS 'What made it: next-token, encode, mcq-prompt, mcq-encoder, finetune, or derived: heads, probe';
