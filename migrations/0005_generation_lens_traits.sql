-- Schema version 5: generation, the logit lens, judged responses, traits' vectors and tokens on them.

CREATE TABLE logit_lens (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    layer INTEGER,
    topk_ids INTEGER[] NOT NULL,
    topk_tokens VARCHAR[] NOT NULL,
    topk_probs FLOAT[] NOT NULL,
    actual_id INTEGER,
    actual_token VARCHAR,
    actual_rank INTEGER,
    actual_prob FLOAT,
    entropy FLOAT NOT NULL,
    kl_to_final FLOAT NOT NULL
);
COMMENT ON TABLE logit_lens IS 'One row is a token at a layer: what the model''s head makes of the residual stream there';
COMMENT ON COLUMN logit_lens.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN logit_lens.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN logit_lens.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN logit_lens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN logit_lens.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN logit_lens.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN logit_lens.topk_ids IS 'The k most probable next tokens, most probable first';
COMMENT ON COLUMN logit_lens.topk_tokens IS 'The same, decoded';
COMMENT ON COLUMN logit_lens.topk_probs IS 'The same, their probabilities';
COMMENT ON COLUMN logit_lens.actual_id IS 'Id of the token at pos + 1; NULL: there is none';
COMMENT ON COLUMN logit_lens.actual_token IS 'That token, decoded on its own';
COMMENT ON COLUMN logit_lens.actual_rank IS '1 + the number of tokens with a larger logit than the actual one';
COMMENT ON COLUMN logit_lens.actual_prob IS 'Probability of the actual token';
COMMENT ON COLUMN logit_lens.entropy IS 'Entropy of the distribution over the whole vocabulary, nats';
COMMENT ON COLUMN logit_lens.kl_to_final IS 'Kullback-Leibler divergence of the model''s own distribution from it, nats';

CREATE TABLE responses (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    prompt VARCHAR NOT NULL,
    system VARCHAR,
    response VARCHAR NOT NULL,
    n_prompt_tokens INTEGER NOT NULL,
    n_response_tokens INTEGER NOT NULL,
    finish VARCHAR NOT NULL,
    trait VARCHAR,
    polarity VARCHAR,
    instruction_idx INTEGER,
    question_idx INTEGER,
    vectors_run_id VARCHAR,
    method VARCHAR,
    component VARCHAR,
    layer INTEGER,
    coefficient FLOAT
);
COMMENT ON TABLE responses IS 'One row is a response that the model generated';
COMMENT ON COLUMN responses.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN responses.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN responses.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN responses.prompt IS 'What was asked, without the chat template';
COMMENT ON COLUMN responses.system IS 'The system message, such as a trait''s instruction';
COMMENT ON COLUMN responses.response IS 'What the model answered, without special tokens';
COMMENT ON COLUMN responses.n_prompt_tokens IS 'Tokens of the prompt, its template included: the response begins there';
COMMENT ON COLUMN responses.n_response_tokens IS 'Tokens generated, an end token included';
COMMENT ON COLUMN responses.finish IS 'stop: the model ended it; length: it was cut at --max-new-tokens';
COMMENT ON COLUMN responses.trait IS 'The trait that it was asked to show or not';
COMMENT ON COLUMN responses.polarity IS 'pos: asked to show it, neg: not to';
COMMENT ON COLUMN responses.instruction_idx IS 'Place of the instruction pair in the definition, 0-based';
COMMENT ON COLUMN responses.question_idx IS 'Place of the question in the definition, 0-based';
COMMENT ON COLUMN responses.vectors_run_id IS 'Steering: the run of the vector that was added';
COMMENT ON COLUMN responses.method IS 'Steering: how that vector was made';
COMMENT ON COLUMN responses.component IS 'Steering: what it lives in';
COMMENT ON COLUMN responses.layer IS 'Steering: the block to whose output it was added';
COMMENT ON COLUMN responses.coefficient IS 'Steering: how much of it, in distances between the polarities'' means along it (trait_vectors.gap)';

CREATE TABLE judgements (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    trait VARCHAR NOT NULL,
    judge VARCHAR NOT NULL,
    trait_score FLOAT,
    coherence_score FLOAT,
    refused BOOLEAN NOT NULL,
    scored_by VARCHAR,
    number_mass FLOAT,
    trait_answer VARCHAR NOT NULL,
    coherence_answer VARCHAR NOT NULL
);
COMMENT ON TABLE judgements IS 'One row is what a judge says of a response';
COMMENT ON COLUMN judgements.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN judgements.source_run_id IS 'The run that the response is of';
COMMENT ON COLUMN judgements.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN judgements.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN judgements.trait IS 'The trait';
COMMENT ON COLUMN judgements.judge IS 'Who judged: openai:MODEL, anthropic:MODEL, URL:MODEL or local:MODEL';
COMMENT ON COLUMN judgements.trait_score IS 'How strongly it shows the trait, 0 to 100; NULL: not told';
COMMENT ON COLUMN judgements.coherence_score IS 'How coherent it is, 0 to 100; NULL: not told';
COMMENT ON COLUMN judgements.refused IS 'The judge says that the response is a refusal';
COMMENT ON COLUMN judgements.scored_by IS 'probabilities: mean over the integers 0 to 100 by the judge''s probabilities; number: the number that it gave; NULL: neither';
COMMENT ON COLUMN judgements.number_mass IS 'Probability that the judge gave to numbers; NULL: not told';
COMMENT ON COLUMN judgements.trait_answer IS 'What the judge answered on the trait';
COMMENT ON COLUMN judgements.coherence_answer IS 'What it answered on coherence';

CREATE TABLE trait_vectors (
    run_id VARCHAR NOT NULL,
    trait VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    component VARCHAR NOT NULL,
    layer INTEGER,
    norm FLOAT NOT NULL,
    gap FLOAT NOT NULL,
    midpoint FLOAT NOT NULL,
    n_pos INTEGER NOT NULL,
    n_neg INTEGER NOT NULL,
    train_accuracy FLOAT NOT NULL,
    effect_size FLOAT NOT NULL,
    vector FLOAT[] NOT NULL
);
COMMENT ON TABLE trait_vectors IS 'One row is a direction of a trait in a layer';
COMMENT ON COLUMN trait_vectors.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN trait_vectors.trait IS 'The trait';
COMMENT ON COLUMN trait_vectors.method IS 'How the vector was made: mean_diff, probe, ica, gradient or random';
COMMENT ON COLUMN trait_vectors.component IS 'What the vector lives in: residual (resid.post_mlp) or attn_out';
COMMENT ON COLUMN trait_vectors.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN trait_vectors.norm IS 'Length of the vector as the method gave it, before it was made a unit vector';
COMMENT ON COLUMN trait_vectors.gap IS 'Distance between the mean projections of the two polarities: one unit of steering';
COMMENT ON COLUMN trait_vectors.midpoint IS 'Half way between those means: above it a response counts as showing the trait';
COMMENT ON COLUMN trait_vectors.n_pos IS 'Positive responses that it was made from';
COMMENT ON COLUMN trait_vectors.n_neg IS 'Negative ones';
COMMENT ON COLUMN trait_vectors.train_accuracy IS 'Part of those on the right side of the midpoint';
COMMENT ON COLUMN trait_vectors.effect_size IS 'Cohen''s d of their cosines with it';
COMMENT ON COLUMN trait_vectors.vector IS 'The unit vector, (D,), pointing towards the trait';

CREATE TABLE trait_evaluations (
    run_id VARCHAR NOT NULL,
    vectors_run_id VARCHAR NOT NULL,
    trait VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    component VARCHAR NOT NULL,
    layer INTEGER,
    n_pos INTEGER NOT NULL,
    n_neg INTEGER NOT NULL,
    accuracy FLOAT NOT NULL,
    accuracy_low FLOAT NOT NULL,
    accuracy_high FLOAT NOT NULL,
    effect_size FLOAT NOT NULL,
    effect_size_low FLOAT NOT NULL,
    effect_size_high FLOAT NOT NULL,
    auc FLOAT NOT NULL,
    polarity_right BOOLEAN NOT NULL,
    overlap FLOAT NOT NULL,
    train_minus_heldout FLOAT NOT NULL,
    random_accuracy FLOAT NOT NULL,
    above_random FLOAT NOT NULL,
    above_random_low FLOAT NOT NULL,
    above_random_high FLOAT NOT NULL
);
COMMENT ON TABLE trait_evaluations IS 'One row is a trait''s vector, judged on questions that it was not made from';
COMMENT ON COLUMN trait_evaluations.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN trait_evaluations.vectors_run_id IS 'The run of the vector';
COMMENT ON COLUMN trait_evaluations.trait IS 'The trait';
COMMENT ON COLUMN trait_evaluations.method IS 'How the vector was made: mean_diff, probe, ica, gradient or random';
COMMENT ON COLUMN trait_evaluations.component IS 'What the vector lives in: residual (resid.post_mlp) or attn_out';
COMMENT ON COLUMN trait_evaluations.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN trait_evaluations.n_pos IS 'Positive responses to held-out questions';
COMMENT ON COLUMN trait_evaluations.n_neg IS 'Negative ones';
COMMENT ON COLUMN trait_evaluations.accuracy IS 'Part of them on the right side of the training midpoint';
COMMENT ON COLUMN trait_evaluations.accuracy_low IS 'Lower end of its 95 % bootstrap interval, over questions';
COMMENT ON COLUMN trait_evaluations.accuracy_high IS 'Upper end';
COMMENT ON COLUMN trait_evaluations.effect_size IS 'Cohen''s d of their cosines with the vector, positive less negative';
COMMENT ON COLUMN trait_evaluations.effect_size_low IS 'Lower end of its 95 % bootstrap interval, over questions';
COMMENT ON COLUMN trait_evaluations.effect_size_high IS 'Upper end';
COMMENT ON COLUMN trait_evaluations.auc IS 'Probability that a positive response projects higher than a negative one';
COMMENT ON COLUMN trait_evaluations.polarity_right IS 'Positive responses project higher on average';
COMMENT ON COLUMN trait_evaluations.overlap IS 'Common area of two normal densities with the polarities'' means and deviations, 0 to 1';
COMMENT ON COLUMN trait_evaluations.train_minus_heldout IS 'Accuracy on what it was made from, less accuracy';
COMMENT ON COLUMN trait_evaluations.random_accuracy IS 'Mean accuracy of random directions in this layer, their sign from training';
COMMENT ON COLUMN trait_evaluations.above_random IS 'accuracy - random_accuracy';
COMMENT ON COLUMN trait_evaluations.above_random_low IS 'Lower end of its 95 % bootstrap interval, over questions';
COMMENT ON COLUMN trait_evaluations.above_random_high IS 'Upper end';

CREATE TABLE trait_projections (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    vectors_run_id VARCHAR NOT NULL,
    trait VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    component VARCHAR NOT NULL,
    layer INTEGER,
    projection FLOAT NOT NULL,
    token_norm FLOAT NOT NULL,
    velocity FLOAT,
    acceleration FLOAT
);
COMMENT ON TABLE trait_projections IS 'One row is a token on a trait''s vector';
COMMENT ON COLUMN trait_projections.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN trait_projections.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN trait_projections.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN trait_projections.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN trait_projections.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN trait_projections.vectors_run_id IS 'The run of the vector';
COMMENT ON COLUMN trait_projections.trait IS 'The trait';
COMMENT ON COLUMN trait_projections.method IS 'How the vector was made: mean_diff, probe, ica, gradient or random';
COMMENT ON COLUMN trait_projections.component IS 'What the vector lives in: residual (resid.post_mlp) or attn_out';
COMMENT ON COLUMN trait_projections.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN trait_projections.projection IS 'h·v/‖v‖, h being the token''s own state';
COMMENT ON COLUMN trait_projections.token_norm IS '‖h‖: projection / token_norm is the cosine';
COMMENT ON COLUMN trait_projections.velocity IS 'Projection less that of the response token before; NULL: none';
COMMENT ON COLUMN trait_projections.acceleration IS 'Velocity less that of the response token before; NULL: none';

CREATE TABLE trait_dynamics (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    vectors_run_id VARCHAR NOT NULL,
    trait VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    component VARCHAR NOT NULL,
    layer INTEGER,
    n_tokens INTEGER NOT NULL,
    first_pos INTEGER NOT NULL,
    mean_projection FLOAT NOT NULL,
    mean_cosine FLOAT NOT NULL,
    spread FLOAT NOT NULL,
    peak_velocity FLOAT,
    commitment_point INTEGER,
    commitment_point_relative INTEGER,
    peak_point INTEGER NOT NULL,
    persistence INTEGER NOT NULL
);
COMMENT ON TABLE trait_dynamics IS 'One row is a response on a trait''s vector';
COMMENT ON COLUMN trait_dynamics.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN trait_dynamics.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN trait_dynamics.example_id IS 'The example: 16 hex digits from data set, config, split and source id; the same in every run';
COMMENT ON COLUMN trait_dynamics.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN trait_dynamics.vectors_run_id IS 'The run of the vector';
COMMENT ON COLUMN trait_dynamics.trait IS 'The trait';
COMMENT ON COLUMN trait_dynamics.method IS 'How the vector was made: mean_diff, probe, ica, gradient or random';
COMMENT ON COLUMN trait_dynamics.component IS 'What the vector lives in: residual (resid.post_mlp) or attn_out';
COMMENT ON COLUMN trait_dynamics.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN trait_dynamics.n_tokens IS 'Tokens looked at: the response''s, or all where the run generated none';
COMMENT ON COLUMN trait_dynamics.first_pos IS 'Position of the first of them';
COMMENT ON COLUMN trait_dynamics.mean_projection IS 'Mean over them';
COMMENT ON COLUMN trait_dynamics.mean_cosine IS 'Mean of projection / token_norm';
COMMENT ON COLUMN trait_dynamics.spread IS 'Standard deviation of the projection';
COMMENT ON COLUMN trait_dynamics.peak_velocity IS 'Largest absolute velocity; NULL: one token';
COMMENT ON COLUMN trait_dynamics.commitment_point IS 'First token, counted from 0 at first_pos, whose absolute acceleration is under the threshold; NULL: none';
COMMENT ON COLUMN trait_dynamics.commitment_point_relative IS 'The same, the threshold being that part of spread; NULL: none';
COMMENT ON COLUMN trait_dynamics.peak_point IS 'The token with the largest projection, counted from 0';
COMMENT ON COLUMN trait_dynamics.persistence IS 'Tokens after the peak whose projection is above half of it';

COMMENT ON COLUMN tokens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN prompts.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN next_token.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN heads.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN tensors.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample';
COMMENT ON COLUMN runs.kind IS 'What made it: next-token, encode, mcq-prompt, mcq-encoder, generate, trait-responses, trait-steering, finetune, or derived: heads, probe, lens, judge, trait-vectors, trait-evaluation, trait-projection';
