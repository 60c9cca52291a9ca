-- Schema version 8: tasks, interventions and their effects, influence and dependency graphs.

CREATE TABLE task_pairs (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    task VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    corruption VARCHAR NOT NULL,
    template VARCHAR,
    n_tokens INTEGER NOT NULL,
    first_changed INTEGER NOT NULL,
    n_changed INTEGER NOT NULL
);
COMMENT ON TABLE task_pairs IS 'One row is a prompt of a pair: the example is the pair';
COMMENT ON COLUMN task_pairs.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN task_pairs.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN task_pairs.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN task_pairs.task IS 'Name of the task, or the stem of its file';
COMMENT ON COLUMN task_pairs.role IS 'clean: seq 0; corrupted: seq 1';
COMMENT ON COLUMN task_pairs.corruption IS 'What was changed, in words; own: a file of pairs that does not say';
COMMENT ON COLUMN task_pairs.template IS 'The template that the pair was made from';
COMMENT ON COLUMN task_pairs.n_tokens IS 'Tokens of the prompt: as many as those of the other';
COMMENT ON COLUMN task_pairs.first_changed IS 'First position at which the two prompts have different tokens';
COMMENT ON COLUMN task_pairs.n_changed IS 'Positions at which they have different tokens';

CREATE TABLE task_targets (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    token_id INTEGER NOT NULL,
    token VARCHAR NOT NULL,
    sign INTEGER NOT NULL
);
COMMENT ON TABLE task_targets IS 'One row is a token of an example''s metric';
COMMENT ON COLUMN task_targets.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN task_targets.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN task_targets.token_id IS 'Id in the model''s vocabulary';
COMMENT ON COLUMN task_targets.token IS 'The token decoded on its own';
COMMENT ON COLUMN task_targets.sign IS '1: an answer to the clean prompt; -1: a wrong one';

CREATE TABLE task_scores (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    is_default BOOLEAN NOT NULL,
    clean DOUBLE NOT NULL,
    corrupted DOUBLE NOT NULL,
    correct BOOLEAN
);
COMMENT ON TABLE task_scores IS 'One row is a metric of an example, by the model as it is';
COMMENT ON COLUMN task_scores.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN task_scores.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN task_scores.metric IS 'Read at the prompt''s last token. logit_diff: mean logit of the tokens of sign +1 less that of those of sign -1; prob_diff: summed probability of the first less that of the second; logprob: ln of the summed probability of the first, nats; kl: KL(distribution of this prompt by the model as it is || this distribution), nats, in task_scores from the clean prompt''s';
COMMENT ON COLUMN task_scores.is_default IS 'Whether it is the task''s own metric';
COMMENT ON COLUMN task_scores.clean IS 'Its value on the clean prompt';
COMMENT ON COLUMN task_scores.corrupted IS 'Its value on the corrupted prompt, with the same tokens and signs';
COMMENT ON COLUMN task_scores.correct IS 'clean > 0, of logit_diff and prob_diff; NULL: logprob and kl have no sign';

CREATE TABLE interventions (
    run_id VARCHAR NOT NULL,
    intervention_id INTEGER NOT NULL,
    spec VARCHAR NOT NULL,
    side VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    layer INTEGER,
    head INTEGER,
    pos INTEGER,
    kind VARCHAR NOT NULL,
    direction VARCHAR,
    reference_run_id VARCHAR,
    n_reference INTEGER
);
COMMENT ON TABLE interventions IS 'One row is something that was done to the model while it ran';
COMMENT ON COLUMN interventions.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN interventions.intervention_id IS 'Place among the run''s interventions, 0-based';
COMMENT ON COLUMN interventions.spec IS 'As it is written: L12H3=zero, resid.post_mlp@5[pos=7]=patch';
COMMENT ON COLUMN interventions.side IS '''dec'' or ''enc'': the stack of the model';
COMMENT ON COLUMN interventions.site IS 'Where values were changed: heads, q, k, v, attn_out, mlp_out, resid.post_mlp, …';
COMMENT ON COLUMN interventions.layer IS 'Layer, 0-based; NULL: resid.embed, which comes before all';
COMMENT ON COLUMN interventions.head IS 'Query head, at k and v key-value head, 0-based; NULL: all of them';
COMMENT ON COLUMN interventions.pos IS 'Token position, 0-based; -1: the prompt''s last; NULL: all of them';
COMMENT ON COLUMN interventions.kind IS 'zero; mean: the mean at that position over a reference run; resample, patch: the value of the pair''s other prompt or of another run; add: something added';
COMMENT ON COLUMN interventions.direction IS 'denoise: the corrupted prompt ran with the clean one''s values; noise: the other way round; NULL: not from the pair';
COMMENT ON COLUMN interventions.reference_run_id IS 'The run that values came from; NULL: the task''s own, or none';
COMMENT ON COLUMN interventions.n_reference IS 'Sequences that the mean is over; NULL: no mean';

CREATE TABLE effects (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    intervention_id INTEGER NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    metric VARCHAR NOT NULL,
    baseline DOUBLE NOT NULL,
    value DOUBLE NOT NULL,
    effect DOUBLE NOT NULL,
    effect_normalised DOUBLE
);
COMMENT ON TABLE effects IS 'One row is the effect of an intervention on a metric of an example';
COMMENT ON COLUMN effects.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN effects.source_run_id IS 'The task''s run';
COMMENT ON COLUMN effects.intervention_id IS 'What was done: interventions of the same run_id';
COMMENT ON COLUMN effects.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN effects.seq IS 'The prompt that ran: 0 clean, 1 corrupted';
COMMENT ON COLUMN effects.metric IS 'Read at the prompt''s last token. logit_diff: mean logit of the tokens of sign +1 less that of those of sign -1; prob_diff: summed probability of the first less that of the second; logprob: ln of the summed probability of the first, nats; kl: KL(distribution of this prompt by the model as it is || this distribution), nats, in task_scores from the clean prompt''s';
COMMENT ON COLUMN effects.baseline IS 'The metric of that prompt with nothing done';
COMMENT ON COLUMN effects.value IS 'The metric of that prompt with it done';
COMMENT ON COLUMN effects.effect IS 'value - baseline';
COMMENT ON COLUMN effects.effect_normalised IS 'effect / (clean - corrupted), of task_scores: 1 restores the clean value where the corrupted prompt ran, -1 destroys it where the clean one did; NULL: clean and corrupted hardly differ';

CREATE TABLE influence_targets (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    target_id INTEGER NOT NULL,
    target_token VARCHAR NOT NULL,
    against_id INTEGER,
    against_token VARCHAR,
    logit DOUBLE NOT NULL,
    parts_sum DOUBLE NOT NULL,
    quantity VARCHAR NOT NULL
);
COMMENT ON TABLE influence_targets IS 'One row is a prediction that is explained';
COMMENT ON COLUMN influence_targets.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN influence_targets.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN influence_targets.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN influence_targets.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN influence_targets.pos IS 'Position that the explained prediction is made from, 0-based';
COMMENT ON COLUMN influence_targets.target_id IS 'Id of the explained token: the first where there are several';
COMMENT ON COLUMN influence_targets.target_token IS 'The explained token, decoded on its own; of several, whose mean logit it is, with '' | '' between';
COMMENT ON COLUMN influence_targets.against_id IS 'Id of the token that it is held against: the first where there are several; NULL: none';
COMMENT ON COLUMN influence_targets.against_token IS 'The token that it is held against, likewise';
COMMENT ON COLUMN influence_targets.logit IS 'The target''s logit, less that of the token that it is held against: the model''s head on the stored final state';
COMMENT ON COLUMN influence_targets.parts_sum IS 'Sum of logit_parts';
COMMENT ON COLUMN influence_targets.quantity IS 'logit, or logit before its soft-cap';

CREATE TABLE logit_parts (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    part VARCHAR NOT NULL,
    layer INTEGER,
    head INTEGER,
    source_pos INTEGER,
    logit DOUBLE NOT NULL
);
COMMENT ON TABLE logit_parts IS 'One row is a part of an explained logit, or difference of two: they add up to it';
COMMENT ON COLUMN logit_parts.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN logit_parts.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN logit_parts.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN logit_parts.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN logit_parts.pos IS 'Position that the explained prediction is made from, 0-based';
COMMENT ON COLUMN logit_parts.part IS 'embed: the embedding; head: a head, by the token that it read; attn: an attention block as one, where heads cannot be told apart; mlp; bias: all biases together';
COMMENT ON COLUMN logit_parts.layer IS 'Layer, 0-based; NULL: embed and bias';
COMMENT ON COLUMN logit_parts.head IS 'Query head, 0-based; NULL: not a head';
COMMENT ON COLUMN logit_parts.source_pos IS 'Position of the token that the head read, of embed the explained position itself; NULL: mlp, attn and bias';
COMMENT ON COLUMN logit_parts.logit IS 'What it adds, the final norm''s scale held at its value there';

CREATE TABLE influence (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    source_pos INTEGER NOT NULL,
    value DOUBLE NOT NULL
);
COMMENT ON TABLE influence IS 'One row is a source token''s share in an explained prediction';
COMMENT ON COLUMN influence.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN influence.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN influence.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN influence.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN influence.pos IS 'Position that the explained prediction is made from, 0-based';
COMMENT ON COLUMN influence.measure IS 'ifr: shares of information flow; value-norm: attention weighted by the norms of what is read; occlusion';
COMMENT ON COLUMN influence.source_pos IS 'Position of the source token, 0-based';
COMMENT ON COLUMN influence.value IS 'ifr and value-norm: shares that sum to 1; occlusion: the logit (difference) as it is less that with the token''s embedding replaced, so that a token that helps is positive';

CREATE TABLE token_edges (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    target_pos INTEGER NOT NULL,
    layer INTEGER NOT NULL,
    head INTEGER,
    pos INTEGER NOT NULL,
    source_pos INTEGER NOT NULL,
    share DOUBLE NOT NULL,
    flow DOUBLE NOT NULL
);
COMMENT ON TABLE token_edges IS 'One row is an edge of the dependency graph of an explained prediction';
COMMENT ON COLUMN token_edges.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN token_edges.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN token_edges.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN token_edges.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN token_edges.target_pos IS 'Position that the explained prediction is made from, 0-based';
COMMENT ON COLUMN token_edges.layer IS 'Layer, 0-based: the edge is from source_pos before its attention to pos after it';
COMMENT ON COLUMN token_edges.head IS 'Query head, 0-based; NULL: the residual stream carries it, and pos = source_pos';
COMMENT ON COLUMN token_edges.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN token_edges.source_pos IS 'Position that it comes from';
COMMENT ON COLUMN token_edges.share IS 'Part of what pos is after the layer''s attention that comes over this edge; all edges into a pos sum to 1';
COMMENT ON COLUMN token_edges.flow IS 'share times what of the prediction passes through pos there; all edges of a layer sum to 1, those left out for being small among them';

CREATE TABLE identity_errors (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    identity VARCHAR NOT NULL,
    layer INTEGER,
    n INTEGER NOT NULL,
    max_error DOUBLE NOT NULL,
    scale DOUBLE NOT NULL
);
COMMENT ON TABLE identity_errors IS 'One row is how exactly an identity holds on a run';
COMMENT ON COLUMN identity_errors.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN identity_errors.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN identity_errors.identity IS '''attn_out = sum of heads'', ''stream = embed + parts'', ''logit = sum of parts'' or ''shares sum to 1''';
COMMENT ON COLUMN identity_errors.layer IS 'Layer, 0-based; NULL: not of one layer';
COMMENT ON COLUMN identity_errors.n IS 'Numbers compared';
COMMENT ON COLUMN identity_errors.max_error IS 'Largest absolute difference between the two sides';
COMMENT ON COLUMN identity_errors.scale IS 'Largest absolute value compared with';

COMMENT ON COLUMN runs.kind IS 'What made it: next-token, encode, mcq-prompt, mcq-encoder, generate, task, trait-responses, trait-steering, finetune, or derived: heads, probe, lens, judge, trait-vectors, trait-evaluation, trait-projection, ablation, patching, influence';
COMMENT ON COLUMN tokens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN prompts.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN next_token.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN heads.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN logit_lens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN responses.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN judgements.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN trait_projections.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN trait_dynamics.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN tensors.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
