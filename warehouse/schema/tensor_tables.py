"""The tables of what is inside a model: stored tensors and attention heads."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, RUN, SEQ
from warehouse.schema.types import Column, Table

TENSORS = Table(
    "tensors",
    "a stored tensor slice: one example's rows of one tensor",
    ("run_id", "example_id", "seq", "side", "site", "layer"),
    (
        RUN,
        EXAMPLE,
        SEQ,
        Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
        Column("site", "VARCHAR", "What was recorded: resid.post_mlp, q, …"),
        Column("layer", "INTEGER", "Layer, 0-based; NULL for resid.embed, which comes before all", nullable=True),
        Column("blob", "VARCHAR", "File, relative to the run's folder"),
        Column("tensor", "VARCHAR", "Name of the tensor in that file"),
        Column("row_start", "BIGINT", "First row in that tensor: a token, or for attn a pair of tokens (query, key)"),
        Column("row_end", "BIGINT", "One past its last row"),
        Column(
            "dtype",
            "VARCHAR",
            "As safetensors names it: F16, BF16, F32; I8: codes with a centre and a scale a dimension, read as float32",
        ),
        Column("shape", "BIGINT[]", "Shape of the slice: rows first"),
        Column(
            "checksum",
            "VARCHAR",
            "Of all slices of its sequence, the same in their rows, in hex: the sum of their xxh3-64, and the sum of each times the xxh3-64 of its "
            "tensor's name, modulo 2^64. Before schema version 9: xxh3-64 of the slice's bytes",
        ),
    ),
)

HEADS = Table(
    "heads",
    "an attention head on a sequence",
    ("run_id", "example_id", "seq", "side", "layer", "head"),
    (
        RUN,
        Column("source_run_id", "VARCHAR", "The run whose attention it tells of: run_id itself where made at capture"),
        EXAMPLE,
        SEQ,
        Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
        Column("layer", "INTEGER", "Layer, 0-based"),
        Column("head", "INTEGER", "Query head, 0-based"),
        Column(
            "entropy", "FLOAT", "Mean entropy of its attention over positions, nats; what a sink takes adds nothing"
        ),
        Column("max_prob", "FLOAT", "Mean of the largest probability at each position"),
        Column("first_token_mass", "FLOAT", "Mean probability on the first token"),
        Column("previous_token_mass", "FLOAT", "Mean probability on the token before; NULL: one token", nullable=True),
        Column("self_mass", "FLOAT", "Mean probability on the token itself"),
        Column(
            "induction_mass",
            "FLOAT",
            "Mean probability on tokens after earlier occurrences of the current one, its own place apart (not before schema version 7), over "
            "the positions that have one; NULL: none has",
            nullable=True,
        ),
    ),
)
