-- Schema version 2: the table heads; tokens of an encoder-decoder have two sides; a row of a tensor may be a pair of tokens.

CREATE TABLE heads (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    side VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    head INTEGER NOT NULL,
    entropy FLOAT NOT NULL,
    max_prob FLOAT NOT NULL,
    first_token_mass FLOAT NOT NULL,
    previous_token_mass FLOAT,
    self_mass FLOAT NOT NULL,
    induction_mass FLOAT
);
COMMENT ON TABLE heads IS 'One row is an attention head on a sequence';
COMMENT ON COLUMN heads.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN heads.source_run_id IS 'The run whose attention it tells of: run_id itself where made at capture';
COMMENT ON COLUMN heads.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN heads.seq IS 'Which sequence of the example: 0, or the chunk under --chunk';
COMMENT ON COLUMN heads.side IS '''dec'' or ''enc'': the stack of the model';
COMMENT ON COLUMN heads.layer IS 'Layer, 0-based';
COMMENT ON COLUMN heads.head IS 'Query head, 0-based';
COMMENT ON COLUMN heads.entropy IS 'Mean entropy of its attention over positions, nats';
COMMENT ON COLUMN heads.max_prob IS 'Mean of the largest probability at each position';
COMMENT ON COLUMN heads.first_token_mass IS 'Mean probability on the first token';
COMMENT ON COLUMN heads.previous_token_mass IS 'Mean probability on the token before; NULL: one token';
COMMENT ON COLUMN heads.self_mass IS 'Mean probability on the token itself';
COMMENT ON COLUMN heads.induction_mass IS 'Mean probability on tokens after earlier occurrences of the current one; NULL: no token occurs twice';

COMMENT ON COLUMN runs.kind IS 'What made it: next-token, encode, or heads (derived)';
COMMENT ON COLUMN tokens.char_start IS 'First character in the text, 0-based: examples.text, or the target''s for the decoder of an encoder-decoder';
COMMENT ON COLUMN tensors.row_start IS 'First row in that tensor: a token, or for attn a pair of tokens (query, key)';
COMMENT ON COLUMN tensors.shape IS 'Shape of the slice: rows first';
