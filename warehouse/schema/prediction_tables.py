"""The tables of predictions: next tokens, the logit lens, and multiple choice."""

from __future__ import annotations

from warehouse.schema.columns import BLOCK, EXAMPLE, POS, RUN, SEQ, SOURCE
from warehouse.schema.types import Column, Table

NEXT_TOKEN = Table(
    "next_token",
    "a position that has a next token",
    ("run_id", "example_id", "seq", "pos"),
    (
        RUN,
        EXAMPLE,
        SEQ,
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
)

LOGIT_LENS = Table(
    "logit_lens",
    "a token at a layer: what the model's head makes of the residual stream there",
    ("run_id", "source_run_id", "example_id", "seq", "pos", "layer"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        POS,
        BLOCK,
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
)

CHOICES = Table(
    "choices",
    "a choice of a multiple-choice question",
    ("run_id", "example_id", "choice_idx"),
    (
        RUN,
        EXAMPLE,
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
)

MCQ_PREDICTIONS = Table(
    "mcq_predictions",
    "a multiple-choice question",
    ("run_id", "example_id"),
    (
        RUN,
        EXAMPLE,
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
)
