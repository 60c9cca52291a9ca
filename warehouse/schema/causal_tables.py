"""The tables of what causes what: tasks, interventions and their effects, influence on a prediction, and its dependency graph."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, METRIC, POS, RUN, SEQ, SOURCE, TASK_RUN
from warehouse.schema.types import Column, Table

_PREDICTION_POS = Column("pos", "INTEGER", "Position that the explained prediction is made from, 0-based")

TASK_PAIRS = Table(
    "task_pairs",
    "a prompt of a pair: the example is the pair",
    ("run_id", "example_id", "seq"),
    (
        RUN,
        EXAMPLE,
        SEQ,
        Column("task", "VARCHAR", "Name of the task, or the stem of its file"),
        Column("role", "VARCHAR", "clean: seq 0; corrupted: seq 1"),
        Column("corruption", "VARCHAR", "What was changed, in words; own: a file of pairs that does not say"),
        Column("template", "VARCHAR", "The template that the pair was made from", nullable=True),
        Column("n_tokens", "INTEGER", "Tokens of the prompt: as many as those of the other"),
        Column("first_changed", "INTEGER", "First position at which the two prompts have different tokens"),
        Column("n_changed", "INTEGER", "Positions at which they have different tokens"),
    ),
)

TASK_TARGETS = Table(
    "task_targets",
    "a token of an example's metric",
    ("run_id", "example_id", "token_id"),
    (
        RUN,
        EXAMPLE,
        Column("token_id", "INTEGER", "Id in the model's vocabulary"),
        Column("token", "VARCHAR", "The token decoded on its own"),
        Column("sign", "INTEGER", "1: an answer to the clean prompt; -1: a wrong one"),
    ),
)

TASK_SCORES = Table(
    "task_scores",
    "a metric of an example, by the model as it is",
    ("run_id", "example_id", "metric"),
    (
        RUN,
        EXAMPLE,
        METRIC,
        Column("is_default", "BOOLEAN", "Whether it is the task's own metric"),
        Column("clean", "DOUBLE", "Its value on the clean prompt"),
        Column("corrupted", "DOUBLE", "Its value on the corrupted prompt, with the same tokens and signs"),
        Column(
            "correct",
            "BOOLEAN",
            "clean > 0, of logit_diff and prob_diff; NULL: logprob and kl have no sign",
            nullable=True,
        ),
    ),
)

INTERVENTIONS = Table(
    "interventions",
    "something that was done to the model while it ran",
    ("run_id", "intervention_id"),
    (
        RUN,
        Column("intervention_id", "INTEGER", "Place among the run's interventions, 0-based"),
        Column("spec", "VARCHAR", "As it is written: L12H3=zero, resid.post_mlp@5[pos=7]=patch"),
        Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
        Column("site", "VARCHAR", "Where values were changed: heads, q, k, v, attn_out, mlp_out, resid.post_mlp, …"),
        Column("layer", "INTEGER", "Layer, 0-based; NULL: resid.embed, which comes before all", nullable=True),
        Column("head", "INTEGER", "Query head, at k and v key-value head, 0-based; NULL: all of them", nullable=True),
        Column("pos", "INTEGER", "Token position, 0-based; -1: the prompt's last; NULL: all of them", nullable=True),
        Column(
            "kind",
            "VARCHAR",
            "zero; mean: the mean at that position over a reference run; resample, patch: the value of the pair's other prompt "
            "or of another run; add: something added",
        ),
        Column(
            "direction",
            "VARCHAR",
            "denoise: the corrupted prompt ran with the clean one's values; noise: the other way round; NULL: not from the pair",
            nullable=True,
        ),
        Column(
            "reference_run_id", "VARCHAR", "The run that values came from; NULL: the task's own, or none", nullable=True
        ),
        Column("n_reference", "INTEGER", "Sequences that the mean is over; NULL: no mean", nullable=True),
    ),
    combined={},
)

EFFECTS = Table(
    "effects",
    "the effect of an intervention on a metric of an example",
    ("run_id", "source_run_id", "intervention_id", "example_id", "metric"),
    (
        RUN,
        TASK_RUN,
        Column("intervention_id", "INTEGER", "What was done: interventions of the same run_id"),
        EXAMPLE,
        Column("seq", "INTEGER", "The prompt that ran: 0 clean, 1 corrupted"),
        METRIC,
        Column("baseline", "DOUBLE", "The metric of that prompt with nothing done"),
        Column("value", "DOUBLE", "The metric of that prompt with it done"),
        Column("effect", "DOUBLE", "value - baseline"),
        Column(
            "effect_normalised",
            "DOUBLE",
            "effect / (clean - corrupted), of task_scores: 1 restores the clean value where the corrupted prompt ran, -1 destroys "
            "it where the clean one did; NULL: clean and corrupted hardly differ",
            nullable=True,
        ),
    ),
)

INFLUENCE_TARGETS = Table(
    "influence_targets",
    "a prediction that is explained",
    ("run_id", "source_run_id", "example_id", "seq", "pos"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        _PREDICTION_POS,
        Column("target_id", "INTEGER", "Id of the explained token: the first where there are several"),
        Column(
            "target_token",
            "VARCHAR",
            "The explained token, decoded on its own; of several, whose mean logit it is, with ' | ' between",
        ),
        Column(
            "against_id",
            "INTEGER",
            "Id of the token that it is held against: the first where there are several; NULL: none",
            nullable=True,
        ),
        Column("against_token", "VARCHAR", "The token that it is held against, likewise", nullable=True),
        Column(
            "logit",
            "DOUBLE",
            "The target's logit, less that of the token that it is held against: the model's head on the stored final state",
        ),
        Column("parts_sum", "DOUBLE", "Sum of logit_parts"),
        Column("quantity", "VARCHAR", "logit, or logit before its soft-cap"),
    ),
)

LOGIT_PARTS = Table(
    "logit_parts",
    "a part of an explained logit, or difference of two: they add up to it",
    ("run_id", "source_run_id", "example_id", "seq", "pos", "part", "layer", "head", "source_pos"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        _PREDICTION_POS,
        Column(
            "part",
            "VARCHAR",
            "embed: the embedding; head: a head, by the token that it read; attn: an attention block as one, where heads cannot "
            "be told apart; mlp; bias: all biases together",
        ),
        Column("layer", "INTEGER", "Layer, 0-based; NULL: embed and bias", nullable=True),
        Column("head", "INTEGER", "Query head, 0-based; NULL: not a head", nullable=True),
        Column(
            "source_pos",
            "INTEGER",
            "Position of the token that the head read, of embed the explained position itself; NULL: mlp, attn and bias",
            nullable=True,
        ),
        Column("logit", "DOUBLE", "What it adds, the final norm's scale held at its value there"),
    ),
)

INFLUENCE = Table(
    "influence",
    "a source token's share in an explained prediction",
    ("run_id", "source_run_id", "example_id", "seq", "pos", "measure", "source_pos"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        _PREDICTION_POS,
        Column(
            "measure",
            "VARCHAR",
            "ifr: shares of information flow; value-norm: attention weighted by the norms of what is read; occlusion",
        ),
        Column("source_pos", "INTEGER", "Position of the source token, 0-based"),
        Column(
            "value",
            "DOUBLE",
            "ifr and value-norm: shares that sum to 1; occlusion: the logit (difference) as it is less that with the token's "
            "embedding replaced, so that a token that helps is positive",
        ),
    ),
)

TOKEN_EDGES = Table(
    "token_edges",
    "an edge of the dependency graph of an explained prediction",
    ("run_id", "source_run_id", "example_id", "seq", "target_pos", "layer", "head", "pos", "source_pos"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        Column("target_pos", "INTEGER", "Position that the explained prediction is made from, 0-based"),
        Column("layer", "INTEGER", "Layer, 0-based: the edge is from source_pos before its attention to pos after it"),
        Column(
            "head",
            "INTEGER",
            "Query head, 0-based; NULL: the residual stream carries it, and pos = source_pos",
            nullable=True,
        ),
        POS,
        Column("source_pos", "INTEGER", "Position that it comes from"),
        Column(
            "share",
            "DOUBLE",
            "Part of what pos is after the layer's attention that comes over this edge; all edges into a pos sum to 1",
        ),
        Column(
            "flow",
            "DOUBLE",
            "share times what of the prediction passes through pos there; all edges of a layer sum to 1, those left out for "
            "being small among them",
        ),
    ),
)

IDENTITY_ERRORS = Table(
    "identity_errors",
    "how exactly an identity holds on a run",
    ("run_id", "source_run_id", "identity", "layer"),
    (
        RUN,
        SOURCE,
        Column(
            "identity",
            "VARCHAR",
            "'attn_out = sum of heads', 'stream = embed + parts', 'logit = sum of parts' or 'shares sum to 1'",
        ),
        Column("layer", "INTEGER", "Layer, 0-based; NULL: not of one layer", nullable=True),
        Column("n", "INTEGER", "Numbers compared"),
        Column("max_error", "DOUBLE", "Largest absolute difference between the two sides"),
        Column("scale", "DOUBLE", "Largest absolute value compared with"),
    ),
    combined={"n": "sum", "max_error": "max", "scale": "max"},
)
