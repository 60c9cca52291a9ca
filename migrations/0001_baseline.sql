-- Schema version 1: every table as the views show it. A change to a table goes into the next numbered file, never into this one.

CREATE TABLE runs (
    run_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    parents VARCHAR[] NOT NULL,
    model VARCHAR NOT NULL,
    revision VARCHAR,
    weights_hash VARCHAR NOT NULL,
    architecture VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    store_dtype VARCHAR NOT NULL,
    n_layers INTEGER NOT NULL,
    dataset VARCHAR NOT NULL,
    config VARCHAR,
    split VARCHAR,
    n_examples BIGINT NOT NULL,
    n_sequences BIGINT NOT NULL,
    n_tokens BIGINT NOT NULL,
    n_predictions BIGINT NOT NULL,
    mean_loss DOUBLE,
    perplexity DOUBLE,
    bytes BIGINT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    seconds DOUBLE NOT NULL,
    schema_version INTEGER NOT NULL
);
COMMENT ON TABLE runs IS 'One row is a run';
COMMENT ON COLUMN runs.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN runs.kind IS 'What made it: next-token';
COMMENT ON COLUMN runs.parents IS 'Runs it was derived from';
COMMENT ON COLUMN runs.model IS 'The model as it was asked for: short name, hub name, folder or file';
COMMENT ON COLUMN runs.revision IS 'Hub revision asked for';
COMMENT ON COLUMN runs.weights_hash IS 'xxh3-128 of the loaded weights, in hex';
COMMENT ON COLUMN runs.architecture IS 'Model class';
COMMENT ON COLUMN runs.dtype IS 'dtype that the model computed in';
COMMENT ON COLUMN runs.store_dtype IS 'dtype that tensors are stored in, promotions apart';
COMMENT ON COLUMN runs.n_layers IS 'Blocks';
COMMENT ON COLUMN runs.dataset IS 'Data set, or the stem of the text file';
COMMENT ON COLUMN runs.config IS 'Configuration of the data set';
COMMENT ON COLUMN runs.split IS 'Split of the data set';
COMMENT ON COLUMN runs.n_examples IS 'Examples read';
COMMENT ON COLUMN runs.n_sequences IS 'Sequences run through the model';
COMMENT ON COLUMN runs.n_tokens IS 'Tokens run through the model, padding not counted';
COMMENT ON COLUMN runs.n_predictions IS 'Positions that have a next token';
COMMENT ON COLUMN runs.mean_loss IS 'Mean next-token loss over all predictions, nats';
COMMENT ON COLUMN runs.perplexity IS 'exp(mean_loss), per token of this model''s tokenizer';
COMMENT ON COLUMN runs.bytes IS 'Size on disk, bytes';
COMMENT ON COLUMN runs.created_at IS 'When the capture began, UTC';
COMMENT ON COLUMN runs.seconds IS 'Time spent in the capture, all its processes together, seconds';
COMMENT ON COLUMN runs.schema_version IS 'Version of the on-disk format';

CREATE TABLE examples (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    idx BIGINT NOT NULL,
    dataset VARCHAR NOT NULL,
    config VARCHAR,
    split VARCHAR,
    source_id VARCHAR,
    text VARCHAR NOT NULL,
    n_seqs INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    truncated BOOLEAN NOT NULL,
    prompt_set VARCHAR,
    metadata VARCHAR
);
COMMENT ON TABLE examples IS 'One row is an example';
COMMENT ON COLUMN examples.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN examples.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN examples.idx IS 'Place in the data as this run read it, 0-based';
COMMENT ON COLUMN examples.dataset IS 'Data set, or the stem of the text file';
COMMENT ON COLUMN examples.config IS 'Configuration of the data set';
COMMENT ON COLUMN examples.split IS 'Split of the data set';
COMMENT ON COLUMN examples.source_id IS 'Its id in the source; for plain text the line, 1-based';
COMMENT ON COLUMN examples.text IS 'The text that was tokenized';
COMMENT ON COLUMN examples.n_seqs IS 'Sequences that its tokens were split into; 0 where it has no tokens';
COMMENT ON COLUMN examples.n_tokens IS 'Tokens kept, over all its sequences';
COMMENT ON COLUMN examples.truncated IS 'Whether tokens past --max-len were dropped';
COMMENT ON COLUMN examples.prompt_set IS 'Prompt set that it belongs to';
COMMENT ON COLUMN examples.metadata IS 'Other fields of the source row, a JSON object';

CREATE TABLE tokens (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    side VARCHAR NOT NULL,
    token_id INTEGER NOT NULL,
    token VARCHAR NOT NULL,
    char_start INTEGER,
    char_end INTEGER,
    word_idx INTEGER,
    is_special BOOLEAN NOT NULL,
    is_response BOOLEAN NOT NULL
);
COMMENT ON TABLE tokens IS 'One row is a token';
COMMENT ON COLUMN tokens.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN tokens.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN tokens.seq IS 'Which sequence of the example: 0, or the chunk under --chunk';
COMMENT ON COLUMN tokens.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN tokens.side IS '''dec'' or ''enc'': the stack of the model that read it';
COMMENT ON COLUMN tokens.token_id IS 'Id in the model''s vocabulary';
COMMENT ON COLUMN tokens.token IS 'The token decoded on its own; a part of a character shows as �';
COMMENT ON COLUMN tokens.char_start IS 'First character in examples.text, 0-based';
COMMENT ON COLUMN tokens.char_end IS 'One past its last character';
COMMENT ON COLUMN tokens.word_idx IS 'The tokenizer''s word that it belongs to, 0-based';
COMMENT ON COLUMN tokens.is_special IS 'Added by the tokenizer, not in the text';
COMMENT ON COLUMN tokens.is_response IS 'Generated by the model';

CREATE TABLE next_token (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    true_id INTEGER NOT NULL,
    true_token VARCHAR NOT NULL,
    pred_id INTEGER NOT NULL,
    pred_token VARCHAR NOT NULL,
    correct BOOLEAN NOT NULL,
    true_prob FLOAT NOT NULL,
    pred_prob FLOAT NOT NULL,
    true_rank INTEGER NOT NULL,
    entropy FLOAT NOT NULL,
    loss FLOAT NOT NULL,
    topk_ids INTEGER[] NOT NULL,
    topk_tokens VARCHAR[] NOT NULL,
    topk_probs FLOAT[] NOT NULL
);
COMMENT ON TABLE next_token IS 'One row is a position that has a next token';
COMMENT ON COLUMN next_token.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN next_token.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN next_token.seq IS 'Which sequence of the example: 0, or the chunk under --chunk';
COMMENT ON COLUMN next_token.pos IS 'Position that the model predicts from; the token predicted stands at pos + 1';
COMMENT ON COLUMN next_token.true_id IS 'Id of the token at pos + 1';
COMMENT ON COLUMN next_token.true_token IS 'That token, decoded on its own';
COMMENT ON COLUMN next_token.pred_id IS 'Id of the most probable token; the lowest id among equals';
COMMENT ON COLUMN next_token.pred_token IS 'That token, decoded on its own';
COMMENT ON COLUMN next_token.correct IS 'pred_id = true_id';
COMMENT ON COLUMN next_token.true_prob IS 'Probability of the true token';
COMMENT ON COLUMN next_token.pred_prob IS 'Probability of the predicted token';
COMMENT ON COLUMN next_token.true_rank IS '1 + the number of tokens with a larger logit than the true one';
COMMENT ON COLUMN next_token.entropy IS 'Entropy of the prediction over the whole vocabulary, nats';
COMMENT ON COLUMN next_token.loss IS '-log(true_prob), nats';
COMMENT ON COLUMN next_token.topk_ids IS 'The k most probable tokens, most probable first';
COMMENT ON COLUMN next_token.topk_tokens IS 'The same, decoded';
COMMENT ON COLUMN next_token.topk_probs IS 'The same, their probabilities';

CREATE TABLE tensors (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    side VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    layer INTEGER,
    blob VARCHAR NOT NULL,
    tensor VARCHAR NOT NULL,
    row_start BIGINT NOT NULL,
    row_end BIGINT NOT NULL,
    dtype VARCHAR NOT NULL,
    shape BIGINT[] NOT NULL,
    checksum VARCHAR NOT NULL
);
COMMENT ON TABLE tensors IS 'One row is a stored tensor slice: one example''s rows of one tensor';
COMMENT ON COLUMN tensors.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN tensors.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN tensors.seq IS 'Which sequence of the example: 0, or the chunk under --chunk';
COMMENT ON COLUMN tensors.side IS '''dec'' or ''enc'': the stack of the model';
COMMENT ON COLUMN tensors.site IS 'What was recorded: resid.post_mlp, q, …';
COMMENT ON COLUMN tensors.layer IS 'Layer, 0-based; NULL for resid.embed, which comes before all';
COMMENT ON COLUMN tensors.blob IS 'File, relative to the run''s folder';
COMMENT ON COLUMN tensors.tensor IS 'Name of the tensor in that file';
COMMENT ON COLUMN tensors.row_start IS 'First row (token) in that tensor';
COMMENT ON COLUMN tensors.row_end IS 'One past its last row';
COMMENT ON COLUMN tensors.dtype IS 'As safetensors names it: F16, BF16, F32';
COMMENT ON COLUMN tensors.shape IS 'Shape of the slice: tokens first';
COMMENT ON COLUMN tensors.checksum IS 'xxh3-64 of the slice''s bytes, in hex';
