-- Schema version 9: circuits, what scores their edges and nodes, and what they keep of a metric; one checksum for all tensors of a sequence; chats; scores of evaluations.

CREATE TABLE circuits (
    run_id VARCHAR NOT NULL,
    circuit VARCHAR NOT NULL,
    source_run_id VARCHAR,
    task VARCHAR,
    corruption VARCHAR,
    metric VARCHAR,
    method VARCHAR NOT NULL,
    steps INTEGER,
    level VARCHAR NOT NULL,
    ablation VARCHAR,
    n_layers INTEGER NOT NULL,
    n_heads INTEGER NOT NULL,
    n_kv_heads INTEGER NOT NULL,
    parallel BOOLEAN NOT NULL,
    heads_apart BOOLEAN NOT NULL,
    n_examples INTEGER,
    n_templates INTEGER,
    n_edges INTEGER NOT NULL,
    n_nodes INTEGER NOT NULL,
    n_resamples INTEGER,
    unit VARCHAR,
    n_selected_edges INTEGER,
    n_selected_nodes INTEGER,
    clean DOUBLE,
    corrupted DOUBLE,
    completeness_error DOUBLE,
    seed INTEGER
);
COMMENT ON TABLE circuits IS 'One row is a circuit: scores of every edge or node of a model for a task, found by one method';
COMMENT ON COLUMN circuits.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN circuits.circuit IS 'Its name in the run: the method, with '' 1/2'' behind it where it is of a part of the pairs; imported: read from a file';
COMMENT ON COLUMN circuits.source_run_id IS 'The task''s run; NULL: imported';
COMMENT ON COLUMN circuits.task IS 'Name of the task; NULL: imported';
COMMENT ON COLUMN circuits.corruption IS 'What the pairs'' second prompts changed, with '' | '' between where they differ: part of what the circuit is; NULL: imported';
COMMENT ON COLUMN circuits.metric IS 'Read at the prompt''s last token. logit_diff: mean logit of the tokens of sign +1 less that of those of sign -1; prob_diff: summed probability of the first less that of the second; logprob: ln of the summed probability of the first, nats; kl: KL(distribution of this prompt by the model as it is || this distribution), nats, in task_scores from the clean prompt''s; NULL: imported';
COMMENT ON COLUMN circuits.method IS 'eap-ig: gradients averaged on the way from the corrupted to the clean embedding; eap: one gradient, on the clean prompt; gim: one backward pass with norms held and softmax smoothed; exact: patching; random; imported';
COMMENT ON COLUMN circuits.steps IS 'Gradients that eap-ig averages; NULL: another method';
COMMENT ON COLUMN circuits.level IS 'What was scored. edge: edges, and the nodes that they leave; node: nodes alone';
COMMENT ON COLUMN circuits.ablation IS 'What the scores stand for: resample: the corrupted prompt''s values; mean: the mean at that position over the task''s corrupted prompts; zero; NULL: imported';
COMMENT ON COLUMN circuits.n_layers IS 'Layers of the model';
COMMENT ON COLUMN circuits.n_heads IS 'Query heads of a layer: the most that one has';
COMMENT ON COLUMN circuits.n_kv_heads IS 'Key-value heads of a layer: the most that one has';
COMMENT ON COLUMN circuits.parallel IS 'Whether MLPs read the stream that the attention of their layer reads';
COMMENT ON COLUMN circuits.heads_apart IS 'Whether every head is a node; else some attention blocks are one node each';
COMMENT ON COLUMN circuits.n_examples IS 'Pairs that it was found on; NULL: imported';
COMMENT ON COLUMN circuits.n_templates IS 'Templates that they are from; NULL: none said, or imported';
COMMENT ON COLUMN circuits.n_edges IS 'All edges of the model''s graph';
COMMENT ON COLUMN circuits.n_nodes IS 'All nodes of the model''s graph';
COMMENT ON COLUMN circuits.n_resamples IS 'Resamples of the bootstrap; NULL: none';
COMMENT ON COLUMN circuits.unit IS 'What is drawn in a resample: pair, or template where there are 5 or more; NULL: none';
COMMENT ON COLUMN circuits.n_selected_edges IS 'Edges that count as the first in selection_frequency';
COMMENT ON COLUMN circuits.n_selected_nodes IS 'Nodes that count as the first in selection_frequency';
COMMENT ON COLUMN circuits.clean IS 'Mean metric of the clean prompts; NULL: imported';
COMMENT ON COLUMN circuits.corrupted IS 'Mean metric of the corrupted prompts; NULL: imported';
COMMENT ON COLUMN circuits.completeness_error IS '|Sum over pairs of embed''s score - (corrupted - clean)|, as a share of |corrupted - clean| summed likewise: 0 where the averaged gradients account for all of the change; NULL: not eap-ig, or nothing changed';
COMMENT ON COLUMN circuits.seed IS 'Chose the pairs, the resamples and what is random; NULL: imported';

CREATE TABLE circuit_nodes (
    run_id VARCHAR NOT NULL,
    circuit VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    layer INTEGER,
    head INTEGER,
    score DOUBLE,
    low DOUBLE,
    high DOUBLE,
    rank INTEGER,
    selection_frequency DOUBLE,
    exact_effect DOUBLE,
    in_graph BOOLEAN
);
COMMENT ON TABLE circuit_nodes IS 'One row is a node''s score in a circuit';
COMMENT ON COLUMN circuit_nodes.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN circuit_nodes.circuit IS 'Its name in the run: the method, with '' 1/2'' behind it where it is of a part of the pairs; imported: read from a file';
COMMENT ON COLUMN circuit_nodes.kind IS 'embed: the embedding; head; attn: an attention block as one, where heads cannot be told apart; mlp';
COMMENT ON COLUMN circuit_nodes.layer IS 'Its layer, 0-based; NULL: embed';
COMMENT ON COLUMN circuit_nodes.head IS 'Its query head, 0-based; NULL: not a head';
COMMENT ON COLUMN circuit_nodes.score IS 'Estimate of the metric with its values corrupted less the metric as it is, mean over pairs: below 0 helps. A score ranks; it is no effect. NULL: the file had none';
COMMENT ON COLUMN circuit_nodes.low IS 'Lower end of the score''s 95 % interval, by bootstrap over circuits.unit; NULL: not resampled';
COMMENT ON COLUMN circuit_nodes.high IS 'Upper end';
COMMENT ON COLUMN circuit_nodes.rank IS 'Its place by size of the score, 1 the largest; NULL: no score';
COMMENT ON COLUMN circuit_nodes.selection_frequency IS 'Share of resamples in which it is among the first, as many as circuits says; NULL: not resampled';
COMMENT ON COLUMN circuit_nodes.exact_effect IS 'Mean effect of truly giving it the corrupted values, intervened - baseline; NULL: not measured';
COMMENT ON COLUMN circuit_nodes.in_graph IS 'Whether the file that it was read from has it in the circuit; NULL: found here';

CREATE TABLE circuit_edges (
    run_id VARCHAR NOT NULL,
    circuit VARCHAR NOT NULL,
    source_kind VARCHAR NOT NULL,
    source_layer INTEGER,
    source_head INTEGER,
    sink_kind VARCHAR NOT NULL,
    sink_layer INTEGER,
    sink_head INTEGER,
    port VARCHAR,
    score DOUBLE,
    low DOUBLE,
    high DOUBLE,
    rank INTEGER,
    selection_frequency DOUBLE,
    exact_effect DOUBLE,
    in_graph BOOLEAN
);
COMMENT ON TABLE circuit_edges IS 'One row is an edge''s score in a circuit: from what writes to the residual stream to what reads it';
COMMENT ON COLUMN circuit_edges.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN circuit_edges.circuit IS 'Its name in the run: the method, with '' 1/2'' behind it where it is of a part of the pairs; imported: read from a file';
COMMENT ON COLUMN circuit_edges.source_kind IS 'What writes. embed: the embedding; head; attn: an attention block as one, where heads cannot be told apart; mlp';
COMMENT ON COLUMN circuit_edges.source_layer IS 'Its layer, 0-based; NULL: embed';
COMMENT ON COLUMN circuit_edges.source_head IS 'Its query head, 0-based; NULL: not a head';
COMMENT ON COLUMN circuit_edges.sink_kind IS 'What reads: head, mlp or logits';
COMMENT ON COLUMN circuit_edges.sink_layer IS 'Its layer, 0-based; NULL: logits';
COMMENT ON COLUMN circuit_edges.sink_head IS 'Its query head at port q, its key-value head at k and v, 0-based; NULL: not a head';
COMMENT ON COLUMN circuit_edges.port IS 'What the head reads it for: q, k or v; NULL: not a head';
COMMENT ON COLUMN circuit_edges.score IS 'Estimate of the metric with its values corrupted less the metric as it is, mean over pairs: below 0 helps. A score ranks; it is no effect. NULL: the file had none';
COMMENT ON COLUMN circuit_edges.low IS 'Lower end of the score''s 95 % interval, by bootstrap over circuits.unit; NULL: not resampled';
COMMENT ON COLUMN circuit_edges.high IS 'Upper end';
COMMENT ON COLUMN circuit_edges.rank IS 'Its place by size of the score, 1 the largest; NULL: no score';
COMMENT ON COLUMN circuit_edges.selection_frequency IS 'Share of resamples in which it is among the first, as many as circuits says; NULL: not resampled';
COMMENT ON COLUMN circuit_edges.exact_effect IS 'Mean effect of truly giving it the corrupted values, intervened - baseline; NULL: not measured';
COMMENT ON COLUMN circuit_edges.in_graph IS 'Whether the file that it was read from has it in the circuit; NULL: found here';

CREATE TABLE circuit_node_scores (
    run_id VARCHAR NOT NULL,
    circuit VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    layer INTEGER,
    head INTEGER,
    score DOUBLE NOT NULL
);
COMMENT ON TABLE circuit_node_scores IS 'One row is a node''s score on one of the pairs that a circuit was found on';
COMMENT ON COLUMN circuit_node_scores.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN circuit_node_scores.circuit IS 'Its name in the run: the method, with '' 1/2'' behind it where it is of a part of the pairs; imported: read from a file';
COMMENT ON COLUMN circuit_node_scores.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN circuit_node_scores.kind IS 'embed: the embedding; head; attn: an attention block as one, where heads cannot be told apart; mlp';
COMMENT ON COLUMN circuit_node_scores.layer IS 'Its layer, 0-based; NULL: embed';
COMMENT ON COLUMN circuit_node_scores.head IS 'Its query head, 0-based; NULL: not a head';
COMMENT ON COLUMN circuit_node_scores.score IS 'Estimate of the metric with its values corrupted less the metric as it is';

CREATE TABLE circuit_values (
    run_id VARCHAR NOT NULL,
    circuit_run_id VARCHAR NOT NULL,
    circuit VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    level VARCHAR NOT NULL,
    selection VARCHAR NOT NULL,
    ablation VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    variant VARCHAR NOT NULL,
    draw INTEGER NOT NULL,
    size DOUBLE NOT NULL,
    example_id VARCHAR NOT NULL,
    n_asked INTEGER NOT NULL,
    n_edges INTEGER NOT NULL,
    held_out BOOLEAN NOT NULL,
    unit VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    full_value DOUBLE NOT NULL,
    none_value DOUBLE NOT NULL
);
COMMENT ON TABLE circuit_values IS 'One row is a pair''s metric with only a circuit''s edges left as they are';
COMMENT ON COLUMN circuit_values.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN circuit_values.circuit_run_id IS 'The run of the circuit';
COMMENT ON COLUMN circuit_values.circuit IS 'The circuit: its name in that run; of one found in parts the method: the mean of the parts; ensemble: the mean of ranks of that run''s methods';
COMMENT ON COLUMN circuit_values.source_run_id IS 'The task''s run';
COMMENT ON COLUMN circuit_values.level IS 'What it was chosen by. edge: edges; node: nodes, each with all edges that leave it';
COMMENT ON COLUMN circuit_values.selection IS 'abs: the largest scores by size; signed: the most negative; greedy: by size, from the logits upwards';
COMMENT ON COLUMN circuit_values.ablation IS 'What all other edges carry. resample: the corrupted prompt''s values; mean: the mean at that position over the task''s corrupted prompts; zero';
COMMENT ON COLUMN circuit_values.metric IS 'Read at the prompt''s last token. logit_diff: mean logit of the tokens of sign +1 less that of those of sign -1; prob_diff: summed probability of the first less that of the second; logprob: ln of the summed probability of the first, nats; kl: KL(distribution of this prompt by the model as it is || this distribution), nats, in task_scores from the clean prompt''s';
COMMENT ON COLUMN circuit_values.variant IS 'circuit; complement: all edges but the circuit''s; random: as many edges, drawn at random';
COMMENT ON COLUMN circuit_values.draw IS 'Which draw of a random circuit, 0-based; else 0';
COMMENT ON COLUMN circuit_values.size IS 'Size asked for: share of all edges, or of all nodes';
COMMENT ON COLUMN circuit_values.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN circuit_values.n_asked IS 'That many edges (nodes)';
COMMENT ON COLUMN circuit_values.n_edges IS 'Edges left as they are: of the circuit without those that lead from or to nothing in it, of a random one as many (at level node all that leave as many nodes), of the complement all others';
COMMENT ON COLUMN circuit_values.held_out IS 'Whether the circuit was found without this pair';
COMMENT ON COLUMN circuit_values.unit IS 'What a resample draws: the pair''s template where the task has 5 or more, else the example_id';
COMMENT ON COLUMN circuit_values.value IS 'The metric of the clean prompt with the other edges ablated';
COMMENT ON COLUMN circuit_values.full_value IS 'The metric of the clean prompt with nothing done: every edge kept';
COMMENT ON COLUMN circuit_values.none_value IS 'The metric of the clean prompt with every edge ablated';

CREATE TABLE dictionaries (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    sae VARCHAR NOT NULL,
    side VARCHAR NOT NULL,
    layer INTEGER,
    site VARCHAR NOT NULL,
    output_site VARCHAR,
    architecture VARCHAR NOT NULL,
    n_features INTEGER NOT NULL,
    width INTEGER NOT NULL,
    trained_on VARCHAR,
    weights_hash VARCHAR NOT NULL
);
COMMENT ON TABLE dictionaries IS 'One row is a dictionary that a run''s states were encoded with';
COMMENT ON COLUMN dictionaries.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN dictionaries.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN dictionaries.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN dictionaries.side IS '''dec'' or ''enc'': the stack of the model that it reads';
COMMENT ON COLUMN dictionaries.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN dictionaries.site IS 'What it reads: resid.post_mlp, mlp_out, …';
COMMENT ON COLUMN dictionaries.output_site IS 'What a transcoder gives back; NULL: the site that it reads';
COMMENT ON COLUMN dictionaries.architecture IS 'standard (ReLU), jumprelu, topk, gated, transcoder, …, as SAELens names it';
COMMENT ON COLUMN dictionaries.n_features IS 'Features';
COMMENT ON COLUMN dictionaries.width IS 'Values of a state that it reads';
COMMENT ON COLUMN dictionaries.trained_on IS 'The model that it was trained on, as it says itself; NULL: not said';
COMMENT ON COLUMN dictionaries.weights_hash IS 'xxh3-128 of its tensors and of what decides how they are used, in hex';

CREATE TABLE features (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    layer INTEGER,
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    activation FLOAT NOT NULL
);
COMMENT ON TABLE features IS 'One row is a feature that is active at a token; sorted by token';
COMMENT ON COLUMN features.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN features.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN features.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN features.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN features.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN features.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN features.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN features.feature IS 'The feature: its row in the dictionary''s decoder, 0-based';
COMMENT ON COLUMN features.activation IS 'How active it is, above 0; one that is not active has no row, and a gated one can be below 0';

CREATE TABLE feature_tokens (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    sae VARCHAR NOT NULL,
    layer INTEGER,
    feature INTEGER NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    activation FLOAT NOT NULL
);
COMMENT ON TABLE feature_tokens IS 'One row is the same as in features, sorted by feature: what a feature is active at is found without reading the others';
COMMENT ON COLUMN feature_tokens.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN feature_tokens.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN feature_tokens.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN feature_tokens.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN feature_tokens.feature IS 'The feature: its row in the dictionary''s decoder, 0-based';
COMMENT ON COLUMN feature_tokens.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN feature_tokens.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN feature_tokens.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN feature_tokens.activation IS 'How active it is, above 0; one that is not active has no row, and a gated one can be below 0';

CREATE TABLE reconstructions (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    layer INTEGER,
    sae VARCHAR NOT NULL,
    n_active INTEGER NOT NULL,
    squared_error FLOAT NOT NULL,
    squared_norm FLOAT NOT NULL,
    squared_deviation FLOAT NOT NULL
);
COMMENT ON TABLE reconstructions IS 'One row is a token at a dictionary: how much of its state the dictionary gives back';
COMMENT ON COLUMN reconstructions.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN reconstructions.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN reconstructions.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN reconstructions.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN reconstructions.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN reconstructions.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN reconstructions.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN reconstructions.n_active IS 'Features that are active: L0';
COMMENT ON COLUMN reconstructions.squared_error IS 'Squared distance from the state to what the dictionary gives back, of a transcoder from its output site';
COMMENT ON COLUMN reconstructions.squared_norm IS 'Squared length of the state that is to be given back';
COMMENT ON COLUMN reconstructions.squared_deviation IS 'Its squared distance from the mean of the run''s states there, first and special tokens not counted: 1 - sum(squared_error) / sum(squared_deviation) is the explained variance';

CREATE TABLE reconstruction_losses (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    sae VARCHAR NOT NULL,
    weights_hash VARCHAR NOT NULL,
    layer INTEGER,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    n_predictions INTEGER NOT NULL,
    loss DOUBLE NOT NULL,
    reconstructed_loss DOUBLE NOT NULL,
    zeroed_loss DOUBLE NOT NULL,
    mean_kl DOUBLE NOT NULL
);
COMMENT ON TABLE reconstruction_losses IS 'One row is a sequence that the model read while a dictionary stood in the place of its states';
COMMENT ON COLUMN reconstruction_losses.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN reconstruction_losses.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN reconstruction_losses.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN reconstruction_losses.weights_hash IS 'Which dictionary of that name: dictionaries.weights_hash';
COMMENT ON COLUMN reconstruction_losses.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN reconstruction_losses.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN reconstruction_losses.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN reconstruction_losses.n_predictions IS 'Next tokens that are predicted';
COMMENT ON COLUMN reconstruction_losses.loss IS 'Mean loss of the model as it is, nats';
COMMENT ON COLUMN reconstruction_losses.reconstructed_loss IS 'The same with what the dictionary gives back in the place of each state';
COMMENT ON COLUMN reconstruction_losses.zeroed_loss IS 'The same with 0 in that place';
COMMENT ON COLUMN reconstruction_losses.mean_kl IS 'Mean KL(the model as it is || with what the dictionary gives back), nats';

CREATE TABLE feature_associations (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    features_run_id VARCHAR NOT NULL,
    sae VARCHAR NOT NULL,
    layer INTEGER,
    feature INTEGER NOT NULL,
    property VARCHAR NOT NULL,
    value VARCHAR NOT NULL,
    n_tokens BIGINT NOT NULL,
    n_active BIGINT NOT NULL,
    n_other_tokens BIGINT NOT NULL,
    n_other_active BIGINT NOT NULL,
    n_examples BIGINT NOT NULL,
    z DOUBLE NOT NULL,
    p_value DOUBLE NOT NULL,
    q_value DOUBLE NOT NULL
);
COMMENT ON TABLE feature_associations IS 'One row is a feature and a value of a property: whether it is active at another share of the tokens with that value than of the others';
COMMENT ON COLUMN feature_associations.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN feature_associations.source_run_id IS 'The run that it was made from';
COMMENT ON COLUMN feature_associations.features_run_id IS 'The run that holds the activations';
COMMENT ON COLUMN feature_associations.sae IS 'The dictionary, a sparse autoencoder or a transcoder: the name of its folder';
COMMENT ON COLUMN feature_associations.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN feature_associations.feature IS 'The feature: its row in the dictionary''s decoder, 0-based';
COMMENT ON COLUMN feature_associations.property IS 'What tokens are told apart by: upos, deprel, role, label (of the example), correct (the prediction made at the token), answer (to the example''s question)';
COMMENT ON COLUMN feature_associations.value IS 'Its value: NOUN, user, joy, …; right or wrong';
COMMENT ON COLUMN feature_associations.n_tokens IS 'Tokens with that value';
COMMENT ON COLUMN feature_associations.n_active IS 'Of these, those that the feature is active at';
COMMENT ON COLUMN feature_associations.n_other_tokens IS 'Tokens with other values';
COMMENT ON COLUMN feature_associations.n_other_active IS 'Of these, those that the feature is active at';
COMMENT ON COLUMN feature_associations.n_examples IS 'Examples that the feature is active in';
COMMENT ON COLUMN feature_associations.z IS 'Difference of the two shares, n_active / n_tokens and n_other_active / n_other_tokens, in standard errors over examples';
COMMENT ON COLUMN feature_associations.p_value IS 'Probability of a z as far from 0, were there no difference';
COMMENT ON COLUMN feature_associations.q_value IS 'The same corrected for all tests of the run: of those with at most this value, this part is expected to be false (Benjamini-Hochberg)';

COMMENT ON COLUMN tensors.checksum IS 'Of all slices of its sequence, the same in their rows, in hex: the sum of their xxh3-64, and the sum of each times the xxh3-64 of its tensor''s name, modulo 2^64. Before schema version 9: xxh3-64 of the slice''s bytes';

COMMENT ON COLUMN tensors.dtype IS 'As safetensors names it: F16, BF16, F32; I8: codes with a centre and a scale a dimension, read as float32';

ALTER TABLE runs ADD COLUMN expired_at TIMESTAMP;
COMMENT ON COLUMN runs.expired_at IS 'When its tensors were deleted (traces runs expire), UTC; NULL: it has those that it stored';

ALTER TABLE tokens ADD COLUMN role VARCHAR;
COMMENT ON COLUMN tokens.role IS 'Who says it, where the text is a chat: user, assistant, system, tool, …; NULL: no chat, or of no message';
ALTER TABLE tokens ADD COLUMN turn INTEGER;
COMMENT ON COLUMN tokens.turn IS 'The message that it is of, with what the chat template puts around it: messages.turn, and one more for a generated answer; NULL: no chat, or what the template writes of its own accord, such as a first BOS, a system message, tools';
ALTER TABLE tokens ADD COLUMN part VARCHAR;
COMMENT ON COLUMN tokens.part IS 'What of its message it is: content, reasoning, tool_calls; NULL: what the template puts around those, or of no message';

CREATE TABLE messages (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    role VARCHAR NOT NULL,
    content VARCHAR,
    reasoning VARCHAR,
    tool_calls VARCHAR,
    tool_call_id VARCHAR,
    name VARCHAR
);
COMMENT ON TABLE messages IS 'One row is a message of a chat';
COMMENT ON COLUMN messages.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN messages.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN messages.seq IS 'The sequence that it is read in: 0 where the example is one chat, whose tokens have other ones too under --chunk; of several chats, the epochs of an evaluation''s log, tokens.seq';
COMMENT ON COLUMN messages.turn IS 'Place among the messages, 0-based: tokens.turn';
COMMENT ON COLUMN messages.role IS 'Who says it: user, assistant, system, tool, …';
COMMENT ON COLUMN messages.content IS 'What is said, before the chat template; NULL: nothing but reasoning or calls';
COMMENT ON COLUMN messages.reasoning IS 'What was thought before it; a template may leave it out of earlier turns';
COMMENT ON COLUMN messages.tool_calls IS 'Calls of tools, a JSON list of {type, function: {name, arguments}}';
COMMENT ON COLUMN messages.tool_call_id IS 'The call that it is the result of';
COMMENT ON COLUMN messages.name IS 'Name of the speaker or of the tool';

CREATE TABLE comparisons (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    other_run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    other_pos INTEGER NOT NULL,
    kl FLOAT,
    kl_reverse FLOAT,
    top1_id INTEGER,
    top1_token VARCHAR,
    top1_prob FLOAT,
    other_top1_id INTEGER,
    other_top1_token VARCHAR,
    other_top1_prob FLOAT,
    loss FLOAT,
    other_loss FLOAT
);
COMMENT ON TABLE comparisons IS 'One row is a token that two models both read, after the same text: what each predicts next';
COMMENT ON COLUMN comparisons.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN comparisons.source_run_id IS 'The first of the two runs that are compared';
COMMENT ON COLUMN comparisons.other_run_id IS 'The second';
COMMENT ON COLUMN comparisons.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN comparisons.seq IS 'Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task''s pair 0 clean, 1 corrupted';
COMMENT ON COLUMN comparisons.pos IS 'Token position in its sequence, 0-based, padding not counted';
COMMENT ON COLUMN comparisons.other_pos IS 'Its position in the other run: pos where both read the same tokens, else that of the token that ends with the same character';
COMMENT ON COLUMN comparisons.kl IS 'KL(the first model''s distribution of the next token || the other''s), nats, within about 1e-6; infinity: the other rules out a token that the first allows; NULL: other vocabularies, or --what leaves it out';
COMMENT ON COLUMN comparisons.kl_reverse IS 'KL(the other''s distribution || the first''s), nats; NULL as kl';
COMMENT ON COLUMN comparisons.top1_id IS 'Id of the first model''s most probable token; the lowest id among equals; NULL as kl';
COMMENT ON COLUMN comparisons.top1_token IS 'That token, decoded on its own';
COMMENT ON COLUMN comparisons.top1_prob IS 'Its probability by the first model';
COMMENT ON COLUMN comparisons.other_top1_id IS 'Id of the other''s most probable token';
COMMENT ON COLUMN comparisons.other_top1_token IS 'That token, decoded on its own';
COMMENT ON COLUMN comparisons.other_top1_prob IS 'Its probability by the other model';
COMMENT ON COLUMN comparisons.loss IS 'What the text up to the sequence''s next row costs the first model, nats: next_token.loss, of several tokens where that row is not the next token; NULL: nothing is predicted there';
COMMENT ON COLUMN comparisons.other_loss IS 'The same of the other model';

CREATE TABLE layer_similarity (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    other_run_id VARCHAR NOT NULL,
    layer INTEGER,
    other_layer INTEGER,
    cka FLOAT,
    cka_low FLOAT,
    cka_high FLOAT,
    procrustes FLOAT,
    procrustes_low FLOAT,
    procrustes_high FLOAT,
    procrustes_chance FLOAT,
    n_tokens INTEGER NOT NULL,
    n_examples INTEGER NOT NULL
);
COMMENT ON TABLE layer_similarity IS 'One row is a layer of the one model and a layer of the other: how alike their states are, over a sample of the tokens that both read, the first of each sequence left out';
COMMENT ON COLUMN layer_similarity.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN layer_similarity.source_run_id IS 'The first of the two runs that are compared';
COMMENT ON COLUMN layer_similarity.other_run_id IS 'The second';
COMMENT ON COLUMN layer_similarity.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN layer_similarity.other_layer IS 'The layer of the other model; NULL: its resid.embed';
COMMENT ON COLUMN layer_similarity.cka IS 'Linear centred kernel alignment, debiased: 1 where the states are a rotated and scaled copy, about 0 where they are unrelated; NULL: fewer than 4 tokens, or states that are all alike';
COMMENT ON COLUMN layer_similarity.cka_low IS 'Lower end of its 95 % interval, by leaving out a group of examples at a time; NULL: fewer than 5 examples';
COMMENT ON COLUMN layer_similarity.cka_high IS 'Upper end of it';
COMMENT ON COLUMN layer_similarity.procrustes IS 'Orthogonal Procrustes similarity: the cosine of the two centred sets of states after the best rotation, 1 for a rotated and scaled copy; the Procrustes distance is 2 - 2 times it; NULL: not asked for (--pairs)';
COMMENT ON COLUMN layer_similarity.procrustes_low IS 'Lower end of its 95 % interval, as cka_low';
COMMENT ON COLUMN layer_similarity.procrustes_high IS 'Upper end of it';
COMMENT ON COLUMN layer_similarity.procrustes_chance IS 'The same with the other model''s tokens shuffled: what unrelated states of as many tokens and dimensions come to';
COMMENT ON COLUMN layer_similarity.n_tokens IS 'Tokens that it is computed over';
COMMENT ON COLUMN layer_similarity.n_examples IS 'Examples that they are of';

CREATE TABLE moved_directions (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    other_run_id VARCHAR NOT NULL,
    layer INTEGER,
    rank INTEGER NOT NULL,
    share FLOAT NOT NULL,
    mean_shift FLOAT NOT NULL,
    sd_shift FLOAT NOT NULL,
    rms_moved FLOAT NOT NULL,
    rms_state FLOAT NOT NULL,
    n_tokens INTEGER NOT NULL,
    vector FLOAT[] NOT NULL
);
COMMENT ON TABLE moved_directions IS 'One row is a direction of a layer along which states moved from the one model to the other, over a sample of the tokens that both read, the first of each sequence left out';
COMMENT ON COLUMN moved_directions.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN moved_directions.source_run_id IS 'The first of the two runs that are compared';
COMMENT ON COLUMN moved_directions.other_run_id IS 'The second';
COMMENT ON COLUMN moved_directions.layer IS 'Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed';
COMMENT ON COLUMN moved_directions.rank IS '1: the states moved most along it';
COMMENT ON COLUMN moved_directions.share IS 'Part of the squared length of all differences that lies along it';
COMMENT ON COLUMN moved_directions.mean_shift IS 'Mean of the differences along it, in the states'' own unit, never below 0: the vector points where the tokens went';
COMMENT ON COLUMN moved_directions.sd_shift IS 'Standard deviation of the differences along it over the tokens';
COMMENT ON COLUMN moved_directions.rms_moved IS 'Root mean square length of the layer''s differences, in all directions';
COMMENT ON COLUMN moved_directions.rms_state IS 'Root mean square length of the first model''s states there';
COMMENT ON COLUMN moved_directions.n_tokens IS 'Tokens that it is computed over';
COMMENT ON COLUMN moved_directions.vector IS 'The direction, of length 1: times mean_shift, what adding it to the first model''s states (interventions of kind add) steers by';

CREATE TABLE head_changes (
    run_id VARCHAR NOT NULL,
    source_run_id VARCHAR NOT NULL,
    other_run_id VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    head INTEGER NOT NULL,
    js FLOAT NOT NULL,
    js_low FLOAT,
    js_high FLOAT,
    top_changed FLOAT NOT NULL,
    write_change FLOAT,
    n_tokens INTEGER NOT NULL,
    n_examples INTEGER NOT NULL
);
COMMENT ON TABLE head_changes IS 'One row is an attention head: how differently the two models'' heads of that number attend, over a sample of the tokens that both read, the first of each sequence left out';
COMMENT ON COLUMN head_changes.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN head_changes.source_run_id IS 'The first of the two runs that are compared';
COMMENT ON COLUMN head_changes.other_run_id IS 'The second';
COMMENT ON COLUMN head_changes.layer IS 'The layer, 0-based';
COMMENT ON COLUMN head_changes.head IS 'The query head, 0-based';
COMMENT ON COLUMN head_changes.js IS 'Mean Jensen-Shannon divergence of the two models'' rows of attention, nats, 0 to ln 2';
COMMENT ON COLUMN head_changes.js_low IS 'Lower end of its 95 % interval, by leaving out a group of examples at a time; NULL: fewer than 5 examples';
COMMENT ON COLUMN head_changes.js_high IS 'Upper end of it';
COMMENT ON COLUMN head_changes.top_changed IS 'Part of the rows in which another token gets the most attention';
COMMENT ON COLUMN head_changes.write_change IS 'Root mean square length of the change of what the head writes to the residual stream, over that of what it wrote; NULL: v is not stored (--capture qkv), or the models'' heads cannot be told apart there';
COMMENT ON COLUMN head_changes.n_tokens IS 'Tokens that it is computed over';
COMMENT ON COLUMN head_changes.n_examples IS 'Examples that they are of';

CREATE TABLE evaluations (
    run_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    seq INTEGER,
    scorer VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE,
    score VARCHAR NOT NULL,
    is_correct BOOLEAN,
    target VARCHAR,
    answer VARCHAR,
    explanation VARCHAR,
    task VARCHAR,
    epoch INTEGER,
    answered_by VARCHAR,
    details VARCHAR
);
COMMENT ON TABLE evaluations IS 'One row is a score that a sample of an evaluation got';
COMMENT ON COLUMN evaluations.run_id IS 'The run: the name of its folder';
COMMENT ON COLUMN evaluations.example_id IS 'The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run';
COMMENT ON COLUMN evaluations.seq IS 'The sequence that was scored; NULL: all of its example''s together, as the choices of a question (scored_sequences has such a score for each of them)';
COMMENT ON COLUMN evaluations.scorer IS 'Who judged: Inspect''s scorer, lm-evaluation-harness'' filter (loglikelihood: its request), or a file''s column';
COMMENT ON COLUMN evaluations.metric IS 'What of it: lm-evaluation-harness'' metric, the key in a score of several values, or score where there is one value';
COMMENT ON COLUMN evaluations.value IS 'The score as a number: 1 for C, yes and true, 0.5 for P, 0 for I, N, no and false; NULL: it is none, or not a number';
COMMENT ON COLUMN evaluations.score IS 'The score as it stands in the log, lists and objects as JSON';
COMMENT ON COLUMN evaluations.is_correct IS 'Whether the answer was right, where the score says that: C, I or N, true or false, or 0 or 1 of acc, acc_norm and exact_match; NULL: it does not say';
COMMENT ON COLUMN evaluations.target IS 'What would have been right; several as a JSON list';
COMMENT ON COLUMN evaluations.answer IS 'What the scorer took for the answer';
COMMENT ON COLUMN evaluations.explanation IS 'Why, in the scorer''s words';
COMMENT ON COLUMN evaluations.task IS 'The evaluation''s task, or the file';
COMMENT ON COLUMN evaluations.epoch IS 'Which answer of that model to the same sample, from 1; NULL: not said';
COMMENT ON COLUMN evaluations.answered_by IS 'The model that was evaluated, as the log names it';
COMMENT ON COLUMN evaluations.details IS 'What the scorer says besides, a JSON object';

COMMENT ON COLUMN runs.kind IS 'What made it: next-token, intervened (next-token while interventions change the model), encode, mcq-prompt, mcq-encoder, generate, task, import (tensors that another tool wrote), trait-responses, trait-steering, finetune, or derived: heads, probe, lens, judge, trait-vectors, trait-evaluation, trait-projection, ablation, patching, influence, comparison, circuit, circuit-evaluation, features, features-evaluation, features-associations';

COMMENT ON COLUMN trait_vectors.gap IS 'Distance between the mean projections of the two polarities: one unit of steering; imported: the vector''s length in its file';
ALTER TABLE trait_vectors ALTER COLUMN midpoint DROP NOT NULL;
COMMENT ON COLUMN trait_vectors.midpoint IS 'Half way between those means: above it a response counts as showing the trait; NULL: imported';
ALTER TABLE trait_vectors ALTER COLUMN n_pos DROP NOT NULL;
COMMENT ON COLUMN trait_vectors.n_pos IS 'Positive responses that it was made from; NULL: imported';
ALTER TABLE trait_vectors ALTER COLUMN n_neg DROP NOT NULL;
COMMENT ON COLUMN trait_vectors.n_neg IS 'Negative ones; NULL: imported';
ALTER TABLE trait_vectors ALTER COLUMN train_accuracy DROP NOT NULL;
COMMENT ON COLUMN trait_vectors.train_accuracy IS 'Part of the responses that it was made from on the right side of the midpoint: no estimate for others; NULL: imported, and its file does not say';
ALTER TABLE trait_vectors ALTER COLUMN effect_size DROP NOT NULL;
COMMENT ON COLUMN trait_vectors.effect_size IS 'Cohen''s d of their cosines with it: no estimate for others, large where they are fewer than dimensions; NULL: imported';
