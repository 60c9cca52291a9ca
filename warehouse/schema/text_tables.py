"""The tables of runs and of the text that they read: runs, examples, tokens, prompts, messages, words, labels."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, POS, RUN, SEQ
from warehouse.schema.types import Column, Table

RUNS = Table(
    "runs",
    "a run",
    ("run_id",),
    (
        RUN,
        Column(
            "kind",
            "VARCHAR",
            "What made it: next-token, intervened (next-token while interventions change the model), encode, mcq-prompt, mcq-encoder, generate, "
            "task, import (tensors that another tool wrote), trait-responses, trait-steering, finetune, or "
            "derived: heads, probe, lens, judge, trait-vectors, trait-evaluation, trait-projection, ablation, patching, influence, "
            "comparison, circuit, circuit-evaluation, features, features-evaluation, features-associations",
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
        Column(
            "expired_at",
            "TIMESTAMP",
            "When its tensors were deleted (traces runs expire), UTC; NULL: it has those that it stored",
            nullable=True,
        ),
    ),
    stored=False,
)

EXAMPLES = Table(
    "examples",
    "an example",
    ("run_id", "example_id"),
    (
        RUN,
        EXAMPLE,
        Column("idx", "BIGINT", "Place in the data as this run read it, 0-based"),
        Column("dataset", "VARCHAR", "Data set, or the stem of the text file"),
        Column("config", "VARCHAR", "Configuration of the data set", nullable=True),
        Column("split", "VARCHAR", "Split of the data set", nullable=True),
        Column("source_id", "VARCHAR", "Its id in the source; for plain text the line, 1-based", nullable=True),
        Column("text", "VARCHAR", "Its text: what was tokenized, but where the table prompts has another"),
        Column("n_seqs", "INTEGER", "Sequences that its tokens were split into; 0 where it has no tokens"),
        Column("n_tokens", "INTEGER", "Tokens kept, over all its sequences, those that are read again counted again"),
        Column("truncated", "BOOLEAN", "Whether the tokenizer cut it, to --max-len or the model's window"),
        Column("altered", "BOOLEAN", "Whether the tokenizer changed the text first: case, accents, white space"),
        Column("prompt_set", "VARCHAR", "Prompt set that it belongs to", nullable=True),
        Column("metadata", "VARCHAR", "Other fields of the source row, a JSON object", nullable=True),
    ),
)

TOKENS = Table(
    "tokens",
    "a token",
    ("run_id", "example_id", "seq", "side", "pos"),
    (
        RUN,
        EXAMPLE,
        SEQ,
        POS,
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
            "role",
            "VARCHAR",
            "Who says it, where the text is a chat: user, assistant, system, tool, …; NULL: no chat, or of no message",
            nullable=True,
        ),
        Column(
            "turn",
            "INTEGER",
            "The message that it is of, with what the chat template puts around it: messages.turn, and one more for a generated "
            "answer; NULL: no chat, or what the template writes of its own accord, such as a first BOS, a system message, tools",
            nullable=True,
        ),
        Column(
            "part",
            "VARCHAR",
            "What of its message it is: content, reasoning, tool_calls; NULL: what the template puts around those, or of no message",
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
)

PROMPTS = Table(
    "prompts",
    "a sequence whose text is not its example's own",
    ("run_id", "example_id", "seq"),
    (
        RUN,
        EXAMPLE,
        SEQ,
        Column("text", "VARCHAR", "What was tokenized; the texts of a pair with a line break between them"),
    ),
)

MESSAGES = Table(
    "messages",
    "a message of a chat",
    ("run_id", "example_id", "seq", "turn"),
    (
        RUN,
        EXAMPLE,
        Column(
            "seq",
            "INTEGER",
            "The sequence that it is read in: 0 where the example is one chat, whose tokens have other ones too under --chunk; of several "
            "chats, the epochs of an evaluation's log, tokens.seq",
        ),
        Column("turn", "INTEGER", "Place among the messages, 0-based: tokens.turn"),
        Column("role", "VARCHAR", "Who says it: user, assistant, system, tool, …"),
        Column(
            "content",
            "VARCHAR",
            "What is said, before the chat template; NULL: nothing but reasoning or calls",
            nullable=True,
        ),
        Column(
            "reasoning",
            "VARCHAR",
            "What was thought before it; a template may leave it out of earlier turns",
            nullable=True,
        ),
        Column(
            "tool_calls", "VARCHAR", "Calls of tools, a JSON list of {type, function: {name, arguments}}", nullable=True
        ),
        Column("tool_call_id", "VARCHAR", "The call that it is the result of", nullable=True),
        Column("name", "VARCHAR", "Name of the speaker or of the tool", nullable=True),
    ),
)

WORDS = Table(
    "words",
    "a word of an annotated data set",
    ("run_id", "example_id", "word_idx"),
    (
        RUN,
        EXAMPLE,
        Column("word_idx", "INTEGER", "Place among the words, 0-based, empty nodes counted"),
        Column("word_id", "VARCHAR", "Its id in the data set: a number from 1, 8.1 for an empty node"),
        Column("form", "VARCHAR", "The word as it stands in the sentence", nullable=True),
        Column("lemma", "VARCHAR", "Lemma", nullable=True),
        Column("upos", "VARCHAR", "Universal part of speech", nullable=True),
        Column("xpos", "VARCHAR", "Part of speech in the treebank's own tag set", nullable=True),
        Column("feats", "VARCHAR", "Morphological features, Name=Value|Name=Value", nullable=True),
        Column("head", "INTEGER", "word_idx of its syntactic head; NULL: the root, or an empty node", nullable=True),
        Column("deprel", "VARCHAR", "Relation to its head; root; NULL: an empty node", nullable=True),
        Column("deps", "VARCHAR", "Enhanced graph, word_id:relation|word_id:relation", nullable=True),
        Column("multiword", "VARCHAR", "The multiword token that it is part of (don't)", nullable=True),
        Column(
            "char_start", "INTEGER", "First character in examples.text, 0-based; NULL: an empty node", nullable=True
        ),
        Column("char_end", "INTEGER", "One past its last character", nullable=True),
    ),
)

LABELS = Table(
    "labels",
    "a label of an example",
    ("run_id", "example_id", "label_id"),
    (
        RUN,
        EXAMPLE,
        Column("label_id", "INTEGER", "Id of the label in the data set"),
        Column("label", "VARCHAR", "Its name"),
    ),
)
