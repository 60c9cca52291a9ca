"""The tables of comparisons: where two models that read the same texts differ."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, POS, RUN, SEQ
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
