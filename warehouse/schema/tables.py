"""The tables: every column's type and comment, once.

Writers take their Arrow schemas from here, the catalog its views and `docs/tables.md` its text (`python -m warehouse.schema.reference
docs`; a test holds it equal). `migrations/` tells how the tables came to be, version by version: a test holds that all of them,
one after the other, make what `ddl` says.

`run_id` is a column of every table, but in no file: it is the name of the run's folder (`run_id=<run>/`).
This module imports nothing heavy, so that `traces sql` starts fast; `arrow_schema` imports pyarrow when called.
"""

from __future__ import annotations

from warehouse.schema.types import Column, Table

SCHEMA_VERSION = 7


_RUN = Column("run_id", "VARCHAR", "The run: the name of its folder")
_EXAMPLE = Column(
    "example_id",
    "VARCHAR",
    "The example: 16 hex digits from data set, config, split and source id; the same in every run",
)
_SEQ = Column("seq", "INTEGER", "Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample")
_POS = Column("pos", "INTEGER", "Token position in its sequence, 0-based, padding not counted")
_SOURCE = Column("source_run_id", "VARCHAR", "The run that it was made from")
_TRAIT = Column("trait", "VARCHAR", "The trait")
_METHOD = Column("method", "VARCHAR", "How the vector was made: mean_diff, probe, ica, gradient or random")
_COMPONENT = Column("component", "VARCHAR", "What the vector lives in: residual (resid.post_mlp) or attn_out")
_BLOCK = Column(
    "layer",
    "INTEGER",
    "Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed",
    nullable=True,
)

_TABLES = (
    Table(
        "runs",
        "a run",
        ("run_id",),
        (
            _RUN,
            Column(
                "kind",
                "VARCHAR",
                "What made it: next-token, encode, mcq-prompt, mcq-encoder, generate, trait-responses, trait-steering, finetune, or "
                "derived: heads, probe, lens, judge, trait-vectors, trait-evaluation, trait-projection",
            ),
            Column("parents", "VARCHAR[]", "Runs it was derived from, or whose model it ran"),
            Column("model", "VARCHAR", "The model as it was asked for: short name, hub name, folder or file"),
            Column("revision", "VARCHAR", "Hub revision asked for", nullable=True),
            Column("weights_hash", "VARCHAR", "xxh3-128 of the loaded weights, in hex"),
            Column("body_hash", "VARCHAR", "The same without the head: what tells one space of vectors from another"),
            Column("architecture", "VARCHAR", "Model class"),
            Column("untrained", "VARCHAR[]", "Weights that the checkpoint lacked, and that are random"),
            Column("dtype", "VARCHAR", "dtype that the model computed in"),
            Column("store_dtype", "VARCHAR", "dtype that tensors are stored in, promotions apart"),
            Column("n_layers", "INTEGER", "Blocks"),
            Column("dataset", "VARCHAR", "Data set, or the stem of the text file"),
            Column("config", "VARCHAR", "Configuration of the data set", nullable=True),
            Column("split", "VARCHAR", "Split of the data set", nullable=True),
            Column(
                "target_column",
                "VARCHAR",
                "Field of examples.metadata whose text the decoder of an encoder-decoder read; NULL: none",
                nullable=True,
            ),
            Column("n_examples", "BIGINT", "Examples read"),
            Column("n_sequences", "BIGINT", "Sequences run through the model"),
            Column("n_tokens", "BIGINT", "Tokens run through the model, padding not counted"),
            Column("n_predictions", "BIGINT", "Positions that have a next token"),
            Column(
                "mean_loss",
                "DOUBLE",
                "Mean next-token loss over all predictions, nats; NULL: there is none, or it is infinite (a token came that the model rules out)",
                nullable=True,
            ),
            Column(
                "perplexity",
                "DOUBLE",
                "exp(mean_loss), per token of this model's tokenizer, the first token of each sequence, which nothing predicts, not counted; NULL: no mean_loss, or one above 709, whose exponential no number holds",
                nullable=True,
            ),
            Column(
                "predicted_bytes",
                "BIGINT",
                "UTF-8 bytes of the text that the predictions are of, as sequence_losses counts them; NULL: the tokenizer tells no "
                "offsets, there are no predictions, or the run is from before schema version 7",
                nullable=True,
            ),
            Column(
                "bits_per_byte",
                "DOUBLE",
                "mean_loss * n_predictions / ln 2 / predicted_bytes: what the predictions cost by byte of text, which models with "
                "different tokenizers share; NULL: no mean_loss, or no predicted_bytes",
                nullable=True,
            ),
            Column("tables", "VARCHAR[]", "Tables that it has rows in"),
            Column("bytes", "BIGINT", "Size on disk, bytes"),
            Column("created_at", "TIMESTAMP", "When the capture began, UTC"),
            Column("seconds", "DOUBLE", "Time spent in the capture, all its processes together, seconds"),
            Column("schema_version", "INTEGER", "Version of the on-disk format"),
        ),
        stored=False,
    ),
    Table(
        "examples",
        "an example",
        ("run_id", "example_id"),
        (
            _RUN,
            _EXAMPLE,
            Column("idx", "BIGINT", "Place in the data as this run read it, 0-based"),
            Column("dataset", "VARCHAR", "Data set, or the stem of the text file"),
            Column("config", "VARCHAR", "Configuration of the data set", nullable=True),
            Column("split", "VARCHAR", "Split of the data set", nullable=True),
            Column("source_id", "VARCHAR", "Its id in the source; for plain text the line, 1-based", nullable=True),
            Column("text", "VARCHAR", "Its text: what was tokenized, but where the table prompts has another"),
            Column("n_seqs", "INTEGER", "Sequences that its tokens were split into; 0 where it has no tokens"),
            Column(
                "n_tokens", "INTEGER", "Tokens kept, over all its sequences, those that are read again counted again"
            ),
            Column("truncated", "BOOLEAN", "Whether the tokenizer cut it, to --max-len or the model's window"),
            Column("altered", "BOOLEAN", "Whether the tokenizer changed the text first: case, accents, white space"),
            Column("prompt_set", "VARCHAR", "Prompt set that it belongs to", nullable=True),
            Column("metadata", "VARCHAR", "Other fields of the source row, a JSON object", nullable=True),
        ),
    ),
    Table(
        "tokens",
        "a token",
        ("run_id", "example_id", "seq", "side", "pos"),
        (
            _RUN,
            _EXAMPLE,
            _SEQ,
            _POS,
            Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model that read it"),
            Column("token_id", "INTEGER", "Id in the model's vocabulary"),
            Column(
                "token",
                "VARCHAR",
                "The token decoded on its own: a part of a character, such as one byte, shows as �, a lone ▁ as an empty text",
            ),
            Column(
                "char_start",
                "INTEGER",
                "First character in the text, 0-based: prompts.text where there is one, or the target's for the decoder of an "
                "encoder-decoder, else examples.text. Tokens that share a character (its bytes, by byte fallback too) share its offsets: spans cover what was read, and "
                "may overlap",
                nullable=True,
            ),
            Column("char_end", "INTEGER", "One past its last character", nullable=True),
            Column(
                "word_idx",
                "INTEGER",
                "The word that it begins in: of the table words where the data set has words, else the tokenizer's, 0-based; "
                "NULL: white space, or special",
                nullable=True,
            ),
            Column(
                "token_type_id",
                "INTEGER",
                "Which text of a pair the model is told it is of, 0 or 1; NULL: not told",
                nullable=True,
            ),
            Column("is_special", "BOOLEAN", "Added by the tokenizer, not in the text"),
            Column(
                "is_response",
                "BOOLEAN",
                "Generated by the model; states are of one pass over the whole text, also that of the last token, from which no "
                "other was drawn",
            ),
            Column(
                "is_context",
                "BOOLEAN",
                "Read again, as context: with --stride, an earlier sequence of the example has the same token, and its prediction; "
                "count tokens without these; NULL before schema version 7: false",
                nullable=True,
            ),
            Column(
                "batch",
                "VARCHAR",
                "The sequence, example_id.seq, that led the batch in which it went through the model: those with the same one shared "
                "a forward pass",
                nullable=True,
            ),
        ),
    ),
    Table(
        "prompts",
        "a sequence whose text is not its example's own",
        ("run_id", "example_id", "seq"),
        (
            _RUN,
            _EXAMPLE,
            _SEQ,
            Column("text", "VARCHAR", "What was tokenized; the texts of a pair with a line break between them"),
        ),
    ),
    Table(
        "words",
        "a word of an annotated data set",
        ("run_id", "example_id", "word_idx"),
        (
            _RUN,
            _EXAMPLE,
            Column("word_idx", "INTEGER", "Place among the words, 0-based, empty nodes counted"),
            Column("word_id", "VARCHAR", "Its id in the data set: a number from 1, 8.1 for an empty node"),
            Column("form", "VARCHAR", "The word as it stands in the sentence", nullable=True),
            Column("lemma", "VARCHAR", "Lemma", nullable=True),
            Column("upos", "VARCHAR", "Universal part of speech", nullable=True),
            Column("xpos", "VARCHAR", "Part of speech in the treebank's own tag set", nullable=True),
            Column("feats", "VARCHAR", "Morphological features, Name=Value|Name=Value", nullable=True),
            Column(
                "head", "INTEGER", "word_idx of its syntactic head; NULL: the root, or an empty node", nullable=True
            ),
            Column("deprel", "VARCHAR", "Relation to its head; root; NULL: an empty node", nullable=True),
            Column("deps", "VARCHAR", "Enhanced graph, word_id:relation|word_id:relation", nullable=True),
            Column("multiword", "VARCHAR", "The multiword token that it is part of (don't)", nullable=True),
            Column(
                "char_start", "INTEGER", "First character in examples.text, 0-based; NULL: an empty node", nullable=True
            ),
            Column("char_end", "INTEGER", "One past its last character", nullable=True),
        ),
    ),
    Table(
        "labels",
        "a label of an example",
        ("run_id", "example_id", "label_id"),
        (
            _RUN,
            _EXAMPLE,
            Column("label_id", "INTEGER", "Id of the label in the data set"),
            Column("label", "VARCHAR", "Its name"),
        ),
    ),
    Table(
        "next_token",
        "a position that has a next token",
        ("run_id", "example_id", "seq", "pos"),
        (
            _RUN,
            _EXAMPLE,
            _SEQ,
            Column("pos", "INTEGER", "Position that the model predicts from; the token predicted stands at pos + 1"),
            Column("true_id", "INTEGER", "Id of the token at pos + 1"),
            Column("true_token", "VARCHAR", "That token, decoded on its own"),
            Column("pred_id", "INTEGER", "Id of the most probable token; the lowest id among equals"),
            Column("pred_token", "VARCHAR", "That token, decoded on its own"),
            Column("correct", "BOOLEAN", "pred_id = true_id"),
            Column("true_prob", "FLOAT", "Probability of the true token; 0 where it is smaller than a FLOAT can be"),
            Column("pred_prob", "FLOAT", "Probability of the predicted token"),
            Column("true_rank", "INTEGER", "1 + the number of tokens with a larger logit than the true one"),
            Column(
                "entropy",
                "FLOAT",
                "Entropy of the prediction over the whole vocabulary, nats; tokens of probability 0 add nothing",
            ),
            Column(
                "loss",
                "FLOAT",
                "-ln of the true token's probability, nats, from the logits: it goes on where true_prob is 0; infinity: the model rules the token out (its logit is -infinity, or 3.4e38 below the largest)",
            ),
            Column(
                "topk_ids",
                "INTEGER[]",
                "The k most probable tokens, most probable first, the lowest id first among equals; all where the model has fewer",
            ),
            Column("topk_tokens", "VARCHAR[]", "The same, decoded"),
            Column("topk_probs", "FLOAT[]", "The same, their probabilities"),
        ),
    ),
    Table(
        "heads",
        "an attention head on a sequence",
        ("run_id", "example_id", "seq", "side", "layer", "head"),
        (
            _RUN,
            Column(
                "source_run_id", "VARCHAR", "The run whose attention it tells of: run_id itself where made at capture"
            ),
            _EXAMPLE,
            _SEQ,
            Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
            Column("layer", "INTEGER", "Layer, 0-based"),
            Column("head", "INTEGER", "Query head, 0-based"),
            Column(
                "entropy", "FLOAT", "Mean entropy of its attention over positions, nats; what a sink takes adds nothing"
            ),
            Column("max_prob", "FLOAT", "Mean of the largest probability at each position"),
            Column("first_token_mass", "FLOAT", "Mean probability on the first token"),
            Column(
                "previous_token_mass", "FLOAT", "Mean probability on the token before; NULL: one token", nullable=True
            ),
            Column("self_mass", "FLOAT", "Mean probability on the token itself"),
            Column(
                "induction_mass",
                "FLOAT",
                "Mean probability on tokens after earlier occurrences of the current one, its own place apart (not before schema version 7), over "
                "the positions that have one; NULL: none has",
                nullable=True,
            ),
        ),
    ),
    Table(
        "choices",
        "a choice of a multiple-choice question",
        ("run_id", "example_id", "choice_idx"),
        (
            _RUN,
            _EXAMPLE,
            Column("choice_idx", "INTEGER", "Place among the question's choices, 0-based"),
            Column("label", "VARCHAR", "Its letter"),
            Column("text", "VARCHAR", "Its text"),
            Column(
                "logit",
                "FLOAT",
                "mcq-prompt: of its letter after the prompt; mcq-encoder: of the multiple-choice head; -infinity: the model rules it out",
            ),
            Column(
                "logprob",
                "FLOAT",
                "Log-probability of its text after the prompt, nats; -infinity: the model rules a token of it out; NULL: an encoder",
                nullable=True,
            ),
            Column("logprob_per_byte", "FLOAT", "The same, by byte of its text in UTF-8, nats", nullable=True),
            Column("prob", "FLOAT", "Softmax over the question's choices of the score that decides"),
            Column("is_label", "BOOLEAN", "Whether it is the right one; NULL: not known", nullable=True),
            Column("is_pred", "BOOLEAN", "Whether it has the highest score, the first among equals"),
        ),
    ),
    Table(
        "mcq_predictions",
        "a multiple-choice question",
        ("run_id", "example_id"),
        (
            _RUN,
            _EXAMPLE,
            Column("score", "VARCHAR", "What decides: letter, text, byte (columns of choices), or head"),
            Column("label_idx", "INTEGER", "choice_idx of the right choice; NULL: not known", nullable=True),
            Column("label", "VARCHAR", "Its letter", nullable=True),
            Column("pred_idx", "INTEGER", "choice_idx of the choice with the highest score, the first among equals"),
            Column("pred_label", "VARCHAR", "Its letter"),
            Column("is_correct", "BOOLEAN", "pred_idx = label_idx; NULL: not known", nullable=True),
            Column("pred_prob", "FLOAT", "Probability of the predicted choice among the choices: the confidence"),
            Column("label_prob", "FLOAT", "Probability of the right choice", nullable=True),
            Column(
                "margin",
                "FLOAT",
                "Score of the predicted choice less that of the second: logits, nats or nats a byte; infinity: the model rules all others out",
            ),
            Column("top_two_gap", "FLOAT", "Probability of the predicted choice less that of the second"),
            Column("entropy", "FLOAT", "Entropy of the probabilities of the choices, nats"),
        ),
    ),
    Table(
        "training",
        "a measurement while a model is fine-tuned",
        ("run_id", "step", "split"),
        (
            _RUN,
            Column("step", "INTEGER", "Optimizer steps done"),
            Column("epoch", "FLOAT", "Passes over the training data done"),
            Column(
                "split",
                "VARCHAR",
                "train: a mean since the row before; set aside: the training questions that the epoch kept was chosen by; else the split "
                "that was judged, which chose nothing (before schema version 7, it chose the epoch)",
            ),
            Column("loss", "FLOAT", "Cross-entropy over the choices, nats"),
            Column("accuracy", "FLOAT", "Part of the questions answered right"),
            Column("learning_rate", "FLOAT", "Learning rate; NULL for an evaluation", nullable=True),
        ),
    ),
    Table(
        "probes",
        "a probe: a logistic regression from the vectors of a layer to labels, judged on examples that it has not seen",
        ("run_id", "side", "site", "layer"),
        (
            _RUN,
            Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
            Column("site", "VARCHAR", "What was probed: resid.post_mlp, q, …"),
            Column("layer", "INTEGER", "Layer, 0-based; NULL for resid.embed", nullable=True),
            Column("head", "INTEGER", "Query head; NULL: the site has none", nullable=True),
            Column("classes", "VARCHAR[]", "The labels, in the order of the coefficients' rows"),
            Column("n_train", "INTEGER", "Tokens that it was fitted to"),
            Column("n_test", "INTEGER", "Tokens that it was judged on, all of other examples"),
            Column("n_test_examples", "INTEGER", "Examples that those tokens are of", nullable=True),
            Column(
                "n_test_unknown",
                "INTEGER",
                "Test tokens with a label that no training token has: never right",
                nullable=True,
            ),
            Column("accuracy", "FLOAT", "Part of the test tokens whose label it gives"),
            Column(
                "accuracy_low",
                "FLOAT",
                "Lower end of its 95 % interval: Wilson's, for as many independent tokens as the test examples are worth",
                nullable=True,
            ),
            Column("accuracy_high", "FLOAT", "Upper end", nullable=True),
            Column("train_accuracy", "FLOAT", "The same of the training tokens"),
            Column("majority_accuracy", "FLOAT", "Part of the test tokens that have the commonest training label"),
            Column(
                "shuffled_accuracy",
                "FLOAT",
                "Accuracy on the test tokens after fitting to shuffled labels; mean of 10 since schema version 7",
            ),
            Column("shuffled_sd", "FLOAT", "Standard deviation of those", nullable=True),
            Column("blob", "VARCHAR", "File of its coefficients, relative to the run's folder"),
            Column("tensor", "VARCHAR", "Their name there: (classes, width + 1), the last column the intercepts"),
        ),
    ),
    Table(
        "logit_lens",
        "a token at a layer: what the model's head makes of the residual stream there",
        ("run_id", "source_run_id", "example_id", "seq", "pos", "layer"),
        (
            _RUN,
            _SOURCE,
            _EXAMPLE,
            _SEQ,
            _POS,
            _BLOCK,
            Column(
                "topk_ids",
                "INTEGER[]",
                "The k most probable next tokens, most probable first, the lowest id first among equals; all where the model has fewer",
            ),
            Column("topk_tokens", "VARCHAR[]", "The same, decoded"),
            Column("topk_probs", "FLOAT[]", "The same, their probabilities"),
            Column("actual_id", "INTEGER", "Id of the token at pos + 1; NULL: there is none", nullable=True),
            Column("actual_token", "VARCHAR", "That token, decoded on its own", nullable=True),
            Column(
                "actual_rank",
                "INTEGER",
                "1 + the number of tokens with a larger logit than the actual one",
                nullable=True,
            ),
            Column(
                "actual_prob",
                "FLOAT",
                "Probability of the actual token; 0 where it is smaller than a FLOAT can be, or the model rules it out",
                nullable=True,
            ),
            Column(
                "entropy",
                "FLOAT",
                "Entropy of the distribution over the whole vocabulary, nats; tokens of probability 0 add nothing",
            ),
            Column(
                "kl_to_final",
                "FLOAT",
                "Kullback-Leibler divergence of the model's own distribution from it, nats, within about 1e-6; infinity: it rules out a token that the model's own allows",
            ),
        ),
    ),
    Table(
        "responses",
        "a response that the model generated",
        ("run_id", "example_id", "seq"),
        (
            _RUN,
            _EXAMPLE,
            _SEQ,
            Column("prompt", "VARCHAR", "What was asked, without the chat template"),
            Column("system", "VARCHAR", "The system message, such as a trait's instruction", nullable=True),
            Column("response", "VARCHAR", "What the model answered, without special tokens"),
            Column(
                "n_prompt_tokens", "INTEGER", "Tokens of the prompt, its template included: the response begins there"
            ),
            Column("n_response_tokens", "INTEGER", "Tokens generated, an end token included"),
            Column("finish", "VARCHAR", "stop: the model ended it; length: it was cut at --max-new-tokens"),
            Column("trait", "VARCHAR", "The trait that it was asked to show or not", nullable=True),
            Column("polarity", "VARCHAR", "pos: asked to show it, neg: not to", nullable=True),
            Column(
                "instruction_idx", "INTEGER", "Place of the instruction pair in the definition, 0-based", nullable=True
            ),
            Column("question_idx", "INTEGER", "Place of the question in the definition, 0-based", nullable=True),
            Column("vectors_run_id", "VARCHAR", "Steering: the run of the vector that was added", nullable=True),
            Column("method", "VARCHAR", "Steering: how that vector was made", nullable=True),
            Column("component", "VARCHAR", "Steering: what it lives in", nullable=True),
            Column("layer", "INTEGER", "Steering: the block to whose output it was added", nullable=True),
            Column(
                "coefficient",
                "FLOAT",
                "Steering: how much of it, in distances between the polarities' means along it (trait_vectors.gap)",
                nullable=True,
            ),
        ),
    ),
    Table(
        "judgements",
        "what a judge says of a response",
        ("run_id", "source_run_id", "example_id", "seq", "trait"),
        (
            _RUN,
            Column("source_run_id", "VARCHAR", "The run that the response is of"),
            _EXAMPLE,
            _SEQ,
            _TRAIT,
            Column("judge", "VARCHAR", "Who judged: openai:MODEL, anthropic:MODEL, URL:MODEL or local:MODEL"),
            Column("trait_score", "FLOAT", "How strongly it shows the trait, 0 to 100; NULL: not told", nullable=True),
            Column("coherence_score", "FLOAT", "How coherent it is, 0 to 100; NULL: not told", nullable=True),
            Column(
                "refused",
                "BOOLEAN",
                "The judge's answer is that the response is a refusal; numbers may have been likely enough beside it for a score",
            ),
            Column(
                "scored_by",
                "VARCHAR",
                "Of trait_score. probabilities: mean over the integers 0 to 100 by the judge's probabilities; number: the number that "
                "it gave; NULL: neither",
                nullable=True,
            ),
            Column(
                "number_mass",
                "FLOAT",
                "Probability that it gave to numbers beside trait_answer; NULL: not told",
                nullable=True,
            ),
            Column("trait_answer", "VARCHAR", "What the judge answered on the trait"),
            Column("coherence_answer", "VARCHAR", "What it answered on coherence"),
            Column(
                "trait_rule",
                "VARCHAR",
                "How trait_answer was looked at. whole: by the probabilities of whole numbers, over all their tokens; tokens: by "
                "those of the integers in the place of one token; one-digit: the same, all of one digit, so that they are first "
                "digits if this judge cuts its numbers; digits: its number came in several tokens and counts as written; "
                "written: as written, no probabilities being told beside it; NULL: no answer",
                nullable=True,
            ),
            Column("coherence_rule", "VARCHAR", "The same of coherence_answer", nullable=True),
        ),
    ),
    Table(
        "trait_vectors",
        "a direction of a trait in a layer",
        ("run_id", "trait", "method", "component", "layer"),
        (
            _RUN,
            _TRAIT,
            _METHOD,
            _COMPONENT,
            _BLOCK,
            Column(
                "norm",
                "FLOAT",
                "Length of the vector as the method gave it, before it was made a unit vector; 1 by construction for gradient and random",
            ),
            Column("gap", "FLOAT", "Distance between the mean projections of the two polarities: one unit of steering"),
            Column(
                "midpoint", "FLOAT", "Half way between those means: above it a response counts as showing the trait"
            ),
            Column("n_pos", "INTEGER", "Positive responses that it was made from"),
            Column("n_neg", "INTEGER", "Negative ones"),
            Column(
                "train_accuracy",
                "FLOAT",
                "Part of the responses that it was made from on the right side of the midpoint: no estimate for others",
            ),
            Column(
                "effect_size",
                "FLOAT",
                "Cohen's d of their cosines with it: no estimate for others, large where they are fewer than dimensions",
            ),
            Column(
                "converged",
                "BOOLEAN",
                "The method stopped because nothing changed any more, not for its number of steps; NULL: it takes no steps",
                nullable=True,
            ),
            Column("vector", "FLOAT[]", "The unit vector, (D,), pointing towards the trait"),
        ),
    ),
    Table(
        "trait_evaluations",
        "a trait's vector, judged on questions that it was not made from",
        ("run_id", "vectors_run_id", "trait", "method", "component", "layer"),
        (
            _RUN,
            Column("vectors_run_id", "VARCHAR", "The run of the vector"),
            _TRAIT,
            _METHOD,
            _COMPONENT,
            _BLOCK,
            Column("n_pos", "INTEGER", "Positive responses to held-out questions"),
            Column("n_neg", "INTEGER", "Negative ones"),
            Column("accuracy", "FLOAT", "Part of them on the right side of the training midpoint"),
            Column(
                "accuracy_low",
                "FLOAT",
                "Lower end of its exact 95 % interval over questions: of this vector, not of one picked for its accuracy",
            ),
            Column("accuracy_high", "FLOAT", "Upper end"),
            Column("effect_size", "FLOAT", "Cohen's d of their cosines with the vector, positive less negative"),
            Column(
                "effect_size_low",
                "FLOAT",
                "Lower end of its 95 % interval over questions, Student's with a bootstrap's error: of this vector, not of one picked for it",
            ),
            Column("effect_size_high", "FLOAT", "Upper end"),
            Column("auc", "FLOAT", "Probability that a positive response projects higher than a negative one"),
            Column("polarity_right", "BOOLEAN", "Positive responses project higher on average"),
            Column(
                "overlap",
                "FLOAT",
                "Common area of two normal densities with the polarities' means and deviations, 0 to 1",
            ),
            Column("train_minus_heldout", "FLOAT", "Accuracy on what it was made from, less accuracy"),
            Column(
                "random_accuracy", "FLOAT", "Mean accuracy of random directions in this layer, their sign from training"
            ),
            Column("above_random", "FLOAT", "accuracy - random_accuracy"),
            Column(
                "above_random_low",
                "FLOAT",
                "Lower end of its 95 % interval over questions; 0 or less: it may be no better than a random direction",
            ),
            Column("above_random_high", "FLOAT", "Upper end"),
            Column(
                "cv_effect_size",
                "FLOAT",
                "Cohen's d on the training questions, each part of them on a vector made from the others: what the best is picked by, "
                "so that the held-out numbers are unbiased; NULL: too few questions",
                nullable=True,
            ),
        ),
    ),
    Table(
        "trait_projections",
        "a token on a trait's vector",
        ("run_id", "source_run_id", "example_id", "seq", "pos", "trait", "method", "component", "layer"),
        (
            _RUN,
            _SOURCE,
            _EXAMPLE,
            _SEQ,
            _POS,
            Column("vectors_run_id", "VARCHAR", "The run of the vector"),
            _TRAIT,
            _METHOD,
            _COMPONENT,
            _BLOCK,
            Column("projection", "FLOAT", "h·v/‖v‖, h being the token's own state"),
            Column("token_norm", "FLOAT", "‖h‖: projection / token_norm is the cosine"),
            Column("velocity", "FLOAT", "Projection less that of the response token before; NULL: none", nullable=True),
            Column(
                "acceleration", "FLOAT", "Velocity less that of the response token before; NULL: none", nullable=True
            ),
        ),
    ),
    Table(
        "trait_dynamics",
        "a response on a trait's vector",
        ("run_id", "source_run_id", "example_id", "seq", "trait", "method", "component", "layer"),
        (
            _RUN,
            _SOURCE,
            _EXAMPLE,
            _SEQ,
            Column("vectors_run_id", "VARCHAR", "The run of the vector"),
            _TRAIT,
            _METHOD,
            _COMPONENT,
            _BLOCK,
            Column("n_tokens", "INTEGER", "Tokens looked at: the response's, or all where the run generated none"),
            Column("first_pos", "INTEGER", "Position of the first of them"),
            Column("mean_projection", "FLOAT", "Mean over them"),
            Column("mean_cosine", "FLOAT", "Mean of projection / token_norm"),
            Column("spread", "FLOAT", "Standard deviation of the projection"),
            Column("peak_velocity", "FLOAT", "Largest absolute velocity; NULL: one token", nullable=True),
            Column(
                "commitment_point",
                "INTEGER",
                "First token, counted from 0 at first_pos, whose absolute acceleration is under the threshold; NULL: none",
                nullable=True,
            ),
            Column(
                "commitment_point_relative",
                "INTEGER",
                "The same, the threshold being that part of spread; NULL: none",
                nullable=True,
            ),
            Column("peak_point", "INTEGER", "The token with the largest projection, counted from 0"),
            Column("persistence", "INTEGER", "Tokens after the peak whose projection is above half of it"),
        ),
    ),
    Table(
        "tensors",
        "a stored tensor slice: one example's rows of one tensor",
        ("run_id", "example_id", "seq", "side", "site", "layer"),
        (
            _RUN,
            _EXAMPLE,
            _SEQ,
            Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
            Column("site", "VARCHAR", "What was recorded: resid.post_mlp, q, …"),
            Column("layer", "INTEGER", "Layer, 0-based; NULL for resid.embed, which comes before all", nullable=True),
            Column("blob", "VARCHAR", "File, relative to the run's folder"),
            Column("tensor", "VARCHAR", "Name of the tensor in that file"),
            Column(
                "row_start", "BIGINT", "First row in that tensor: a token, or for attn a pair of tokens (query, key)"
            ),
            Column("row_end", "BIGINT", "One past its last row"),
            Column("dtype", "VARCHAR", "As safetensors names it: F16, BF16, F32"),
            Column("shape", "BIGINT[]", "Shape of the slice: rows first"),
            Column("checksum", "VARCHAR", "xxh3-64 of the slice's bytes, in hex"),
        ),
    ),
)

TABLES: dict[str, Table] = {t.name: t for t in _TABLES}
STORED: dict[str, Table] = {t.name: t for t in _TABLES if t.stored}
