"""The tables of comparisons: where two models that read the same texts differ."""

from __future__ import annotations

from warehouse.schema.columns import BLOCK, EXAMPLE, POS, RUN, SEQ
from warehouse.schema.types import Column, Table

_SOURCE = Column("source_run_id", "VARCHAR", "The first of the two runs that are compared")
_OTHER = Column("other_run_id", "VARCHAR", "The second")

COMPARISONS = Table(
    "comparisons",
    "a token that two models both read, after the same text: what each predicts next",
    ("run_id", "source_run_id", "other_run_id", "example_id", "seq", "pos"),
    (
        RUN,
        _SOURCE,
        _OTHER,
        EXAMPLE,
        SEQ,
        POS,
        Column(
            "other_pos",
            "INTEGER",
            "Its position in the other run: pos where both read the same tokens, else that of the token that ends with the same character",
        ),
        Column(
            "kl",
            "FLOAT",
            "KL(the first model's distribution of the next token || the other's), nats, within about 1e-6; infinity: the other rules out a "
            "token that the first allows; NULL: other vocabularies, or --what leaves it out",
            nullable=True,
        ),
        Column("kl_reverse", "FLOAT", "KL(the other's distribution || the first's), nats; NULL as kl", nullable=True),
        Column(
            "top1_id",
            "INTEGER",
            "Id of the first model's most probable token; the lowest id among equals; NULL as kl",
            nullable=True,
        ),
        Column("top1_token", "VARCHAR", "That token, decoded on its own", nullable=True),
        Column("top1_prob", "FLOAT", "Its probability by the first model", nullable=True),
        Column("other_top1_id", "INTEGER", "Id of the other's most probable token", nullable=True),
        Column("other_top1_token", "VARCHAR", "That token, decoded on its own", nullable=True),
        Column("other_top1_prob", "FLOAT", "Its probability by the other model", nullable=True),
        Column(
            "loss",
            "FLOAT",
            "What the text up to the sequence's next row costs the first model, nats: next_token.loss, of several tokens where that row "
            "is not the next token; NULL: nothing is predicted there",
            nullable=True,
        ),
        Column("other_loss", "FLOAT", "The same of the other model", nullable=True),
    ),
)

_TOKENS = Column("n_tokens", "INTEGER", "Tokens that it is computed over")
_EXAMPLES = Column("n_examples", "INTEGER", "Examples that they are of")
_SHARED = "over a sample of the tokens that both read, the first of each sequence left out"

LAYER_SIMILARITY = Table(
    "layer_similarity",
    f"a layer of the one model and a layer of the other: how alike their states are, {_SHARED}",
    ("run_id", "source_run_id", "other_run_id", "layer", "other_layer"),
    (
        RUN,
        _SOURCE,
        _OTHER,
        BLOCK,
        Column("other_layer", "INTEGER", "The layer of the other model; NULL: its resid.embed", nullable=True),
        Column(
            "cka",
            "FLOAT",
            "Linear centred kernel alignment, debiased: 1 where the states are a rotated and scaled copy, about 0 where they are unrelated; NULL: "
            "fewer than 4 tokens, or states that are all alike",
            nullable=True,
        ),
        Column(
            "cka_low",
            "FLOAT",
            "Lower end of its 95 % interval, by leaving out a group of examples at a time; NULL: fewer than 5 examples",
            nullable=True,
        ),
        Column("cka_high", "FLOAT", "Upper end of it", nullable=True),
        Column(
            "procrustes",
            "FLOAT",
            "Orthogonal Procrustes similarity: the cosine of the two centred sets of states after the best rotation, 1 for a rotated and scaled copy; "
            "the Procrustes distance is 2 - 2 times it; NULL: not asked for (--pairs)",
            nullable=True,
        ),
        Column("procrustes_low", "FLOAT", "Lower end of its 95 % interval, as cka_low", nullable=True),
        Column("procrustes_high", "FLOAT", "Upper end of it", nullable=True),
        Column(
            "procrustes_chance",
            "FLOAT",
            "The same with the other model's tokens shuffled: what unrelated states of as many tokens and dimensions come to",
            nullable=True,
        ),
        _TOKENS,
        _EXAMPLES,
    ),
)

MOVED_DIRECTIONS = Table(
    "moved_directions",
    f"a direction of a layer along which states moved from the one model to the other, {_SHARED}",
    ("run_id", "source_run_id", "other_run_id", "layer", "rank"),
    (
        RUN,
        _SOURCE,
        _OTHER,
        BLOCK,
        Column("rank", "INTEGER", "1: the states moved most along it"),
        Column("share", "FLOAT", "Part of the squared length of all differences that lies along it"),
        Column(
            "mean_shift",
            "FLOAT",
            "Mean of the differences along it, in the states' own unit, never below 0: the vector points where the tokens went",
        ),
        Column("sd_shift", "FLOAT", "Standard deviation of the differences along it over the tokens"),
        Column("rms_moved", "FLOAT", "Root mean square length of the layer's differences, in all directions"),
        Column("rms_state", "FLOAT", "Root mean square length of the first model's states there"),
        _TOKENS,
        Column(
            "vector",
            "FLOAT[]",
            "The direction, of length 1: times mean_shift, what adding it to the first model's states (interventions of kind add) steers by",
        ),
    ),
)

HEAD_CHANGES = Table(
    "head_changes",
    f"an attention head: how differently the two models' heads of that number attend, {_SHARED}",
    ("run_id", "source_run_id", "other_run_id", "layer", "head"),
    (
        RUN,
        _SOURCE,
        _OTHER,
        Column("layer", "INTEGER", "The layer, 0-based"),
        Column("head", "INTEGER", "The query head, 0-based"),
        Column(
            "js",
            "FLOAT",
            "Mean Jensen-Shannon divergence of the two models' rows of attention, nats, 0 to ln 2",
        ),
        Column(
            "js_low",
            "FLOAT",
            "Lower end of its 95 % interval, by leaving out a group of examples at a time; NULL: fewer than 5 examples",
            nullable=True,
        ),
        Column("js_high", "FLOAT", "Upper end of it", nullable=True),
        Column("top_changed", "FLOAT", "Part of the rows in which another token gets the most attention"),
        Column(
            "write_change",
            "FLOAT",
            "Root mean square length of the change of what the head writes to the residual stream, over that of what it wrote; NULL: v is not "
            "stored (--capture qkv), or the models' heads cannot be told apart there",
            nullable=True,
        ),
        _TOKENS,
        _EXAMPLES,
    ),
)
