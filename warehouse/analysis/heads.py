"""Measure what attention heads do on a sequence: how spread their attention is, and where its mass goes. One row per head.

Statistics come from attention probabilities alone, so that they are the same at capture and later from stored q and k. Means are
over queries (positions). Induction is attention to the token after an earlier occurrence of the current one (Olsson et al. 2022,
"In-context Learning and Induction Heads"), over the positions that have one. A position is never its own target, though in a run
of equal tokens it comes after one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from warehouse.schema.sites import TRIANGLE
from warehouse.storage.attention import per_query_head, probabilities, select_heads, triangle_side, unpack_pairs
from warehouse.storage.model_info import LayerAttention
from warehouse.storage.parquet import to_table

STATISTICS = ("entropy", "max_prob", "first_token_mass", "previous_token_mass", "self_mass", "induction_mass")
"""The columns of a head's row: entropy in nats, all others probabilities."""

_PIECE = 1 << 20
"""Probabilities that are measured together: few enough to stay near a processor's cache."""


@dataclass(frozen=True)
class LayerHeads:
    """The attention of one layer's heads on one sequence."""

    heads: int
    tokens: int
    attention: Callable[[slice], np.ndarray]
    """Computes the probabilities of some of the heads, (h, T, T) float32."""


def from_qk(q: np.ndarray, k: np.ndarray, formula: LayerAttention) -> LayerHeads:
    """Compute attention from stored q and k.

    Args:
        q: Queries, (T, H, d).
        k: Keys, (T, H_kv, d).
        formula: How the layer makes probabilities of them.

    Returns:
        The layer's H heads.
    """
    tokens, heads, _ = q.shape

    def attention(some: slice) -> np.ndarray:
        keys = per_query_head(k.swapaxes(0, 1), heads)
        return probabilities(q.swapaxes(0, 1)[some], keys[some], select_heads(formula, some))

    return LayerHeads(heads, tokens, attention)


def from_stored(pairs: np.ndarray, rows: str) -> LayerHeads:
    """Read attention from stored probabilities.

    Args:
        pairs: Probabilities of pairs of tokens, (pairs, H).
        rows: Kind of rows, as `warehouse.schema.sites` names them: a triangle or a square.

    Returns:
        The layer's H heads.
    """
    count, heads = pairs.shape
    tokens = triangle_side(count) if rows == TRIANGLE else round(count**0.5)
    return LayerHeads(heads, tokens, lambda some: unpack_pairs(pairs[:, some], rows))


def statistics(attention: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Measure heads.

    Args:
        attention: Probabilities, (h, T, T).
        targets: What `induction_targets` returns for the tokens, (T, T).

    Returns:
        (h, 6), float32, in the order of STATISTICS; NaN where no position has what a mean is over.
    """
    heads, t, _ = attention.shape
    out = np.full((heads, len(STATISTICS)), np.nan, np.float32)
    seeking = int(targets.any(axis=1).sum())
    # 0 ln 0 is 0, and a probability that rounding made larger than 1 adds no negative entropy.
    surprise = np.abs(np.log(np.clip(attention, np.float32(1e-38), 1)))
    out[:, 0] = np.einsum("hij,hij->h", attention, surprise) / t
    out[:, 1] = attention.max(axis=2).mean(axis=1)
    out[:, 2] = attention[:, :, 0].mean(axis=1)
    if t > 1:
        out[:, 3] = np.diagonal(attention, -1, 1, 2).mean(axis=1)
    out[:, 4] = np.diagonal(attention, 0, 1, 2).mean(axis=1)
    if seeking:
        i, j = targets.nonzero()
        out[:, 5] = attention[:, i, j].sum(axis=1) / np.float32(seeking)
    return out


def induction_targets(ids: np.ndarray) -> np.ndarray:
    """Return for token ids (T,) an array (T, T), true at (i, j) where j is before i and token j - 1 equals token i."""
    t = len(ids)
    targets = np.zeros((t, t), bool)
    targets[:, 1:] = ids[:, None] == ids[None, :-1]
    return targets & np.tri(t, k=-1, dtype=bool)


class HeadTable:
    """Makes rows of the table `heads` on all of the machine's processors. A context manager, which ends its threads."""

    def __init__(self, source_run_id: str) -> None:
        """Take the run whose attention the rows describe; it need not be the run that they are stored in."""
        self._source = source_run_id
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="heads")

    def rows(self, example_id: str, seq: int, side: str, ids: np.ndarray, layers: Mapping[int, LayerHeads]) -> pa.Table:
        """Return the rows of one sequence.

        Args:
            example_id: The sequence's example.
            seq: The sequence's number in its example.
            side: `dec` or `enc`.
            ids: Token ids, (T,).
            layers: Attention by layer.

        Returns:
            A row per layer and head.
        """
        targets = induction_targets(ids)
        pieces = [
            (number, layer, slice(start, min(start + step, layer.heads)))
            for number, layer in layers.items()
            for step in [max(1, _PIECE // max(1, layer.tokens**2))]
            for start in range(0, layer.heads, step)
        ]
        measured = list(self._pool.map(lambda p: statistics(p[1].attention(p[2]), targets), pieces))
        numbers = np.concatenate([np.full(len(m), n, np.int32) for m, (n, _, _) in zip(measured, pieces, strict=True)])
        heads = np.concatenate([np.arange(p.start, p.stop, dtype=np.int32) for _, _, p in pieces])
        values = np.concatenate(measured)
        columns = {name: pa.array(values[:, i], mask=np.isnan(values[:, i])) for i, name in enumerate(STATISTICS)}
        return to_table(
            "heads",
            {
                "source_run_id": [self._source] * len(heads),
                "example_id": [example_id] * len(heads),
                "seq": [seq] * len(heads),
                "side": [side] * len(heads),
                "layer": pa.array(numbers),
                "head": pa.array(heads),
                **columns,
            },
        )

    def __enter__(self) -> HeadTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
