"""Rows of the tables of an influence run, from what was found of the predictions of a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from capture.influences.flows import Edges
from capture.influences.logit_parts import LogitParts
from capture.influences.targets import Tokens
from capture.sequences.decoding import decode_tokens
from warehouse.storage.parquet import to_table


class Explained(NamedTuple):
    """A prediction that was explained."""

    example_id: str
    seq: int
    pos: int
    tokens: Tokens
    logit: float
    quantity: str
    parts: LogitParts
    shares: dict[str, np.ndarray]
    """Measure → (n,): what each of the first n source tokens has."""
    edges: Edges | None
    """Of its dependency graph; None: IFR was not asked for."""


def make_tables(source: str, tokenizer: Any, explained: list[Explained], keeps_parts: bool) -> dict[str, pa.Table]:
    """Make the rows of some predictions.

    Args:
        source: The run that they are of.
        tokenizer: The model's.
        explained: The predictions.
        keeps_parts: Whether `logit_parts` gets rows.

    Returns:
        Rows by table.
    """
    tables = {"influence_targets": _targets(source, tokenizer, explained)}
    if keeps_parts:
        tables["logit_parts"] = _concat("logit_parts", source, [(e, "pos", _part_columns(e.parts)) for e in explained])
    shares = [(e, "pos", _share_columns(measure, x)) for e in explained for measure, x in e.shares.items()]
    if shares:
        tables["influence"] = _concat("influence", source, shares)
    edges = [(e, "target_pos", _edge_columns(e.edges)) for e in explained if e.edges is not None]
    if edges:
        tables["token_edges"] = _concat("token_edges", source, edges)
    return tables


def _targets(source: str, tokenizer: Any, explained: list[Explained]) -> pa.Table:
    texts = {i: t for i, t in _decoded(tokenizer, {i for e in explained for ids in e.tokens for i in ids})}

    def named(ids: list[int]) -> str | None:
        return " | ".join(texts[i] for i in ids) if ids else None

    return to_table(
        "influence_targets",
        {
            "source_run_id": [source] * len(explained),
            "example_id": [e.example_id for e in explained],
            "seq": [e.seq for e in explained],
            "pos": [e.pos for e in explained],
            "target_id": [e.tokens.plus[0] for e in explained],
            "target_token": [named(e.tokens.plus) for e in explained],
            "against_id": [e.tokens.minus[0] if e.tokens.minus else None for e in explained],
            "against_token": [named(e.tokens.minus) for e in explained],
            "logit": [e.logit for e in explained],
            "parts_sum": [e.parts.total for e in explained],
            "quantity": [e.quantity for e in explained],
        },
    )


def _decoded(tokenizer: Any, ids: set[int]) -> list[tuple[int, str]]:
    ordered = sorted(ids)
    return list(zip(ordered, decode_tokens(tokenizer, ordered), strict=True))


def _part_columns(parts: LogitParts) -> dict[str, pa.Array]:
    numbers = {name: _null_below_zero(getattr(parts, name)) for name in ("layer", "head", "source_pos")}
    return {"part": pa.array(parts.part), **numbers, "logit": pa.array(parts.logit)}


def _share_columns(measure: str, shares: np.ndarray) -> dict[str, pa.Array]:
    n = len(shares)
    return {
        "measure": pa.repeat(pa.scalar(measure), n),
        "source_pos": pa.array(np.arange(n, dtype=np.int32)),
        "value": pa.array(shares),
    }


def _edge_columns(edges: Edges) -> dict[str, pa.Array]:
    numbers = {name: _null_below_zero(getattr(edges, name)) for name in ("layer", "head", "pos", "source_pos")}
    return {**numbers, "share": pa.array(edges.share), "flow": pa.array(edges.flow)}


def _null_below_zero(x: np.ndarray) -> pa.Array:
    return pa.array(x.astype(np.int32), mask=x < 0)


def _concat(table: str, source: str, pieces: list[tuple[Explained, str, dict[str, pa.Array]]]) -> pa.Table:
    """Make one table of the columns of predictions, each with the keys of its prediction."""
    made = []
    for e, pos, columns in pieces:
        n = len(next(iter(columns.values())))
        keys = {"source_run_id": source, "example_id": e.example_id}
        numbers = {"seq": e.seq, pos: e.pos}
        made.append(
            to_table(
                table,
                {name: pa.repeat(pa.scalar(value), n) for name, value in keys.items()}
                | {name: pa.repeat(pa.scalar(value, pa.int32()), n) for name, value in numbers.items()}
                | columns,
            )
        )
    return pa.concat_tables(made)
