"""What attention heads do on a sequence, a row a head: how spread their attention is, and where its mass goes.

From attention probabilities alone, so that they come out the same at capture and later from stored q and k. Means are over
queries (positions); induction is attention to the token after an earlier occurrence of the current one (Olsson et al. 2022,
"In-context Learning and Induction Heads"), over the positions that have one; a position's own place is none, though in a row of
like tokens it comes after one of them.
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
from warehouse.storage.manifest import LayerAttention
from warehouse.storage.parquet import to_table

STATISTICS = ("entropy", "max_prob", "first_token_mass", "previous_token_mass", "self_mass", "induction_mass")

_PIECE = 1 << 20
"""Probabilities that are looked at together: few enough to stay near a processor's cache."""


@dataclass(frozen=True)
class LayerHeads:
    """One layer's heads on one sequence."""

    heads: int
    tokens: int
    attention: Callable[[slice], np.ndarray]
    """Probabilities of some of the heads, (h, T, T) float32."""


def from_qk(q: np.ndarray, k: np.ndarray, formula: LayerAttention) -> LayerHeads:
    """Stored rows, (T, H, d) and (T, H_kv, d)."""
    tokens, heads, _ = q.shape

    def attention(some: slice) -> np.ndarray:
        keys = per_query_head(k.swapaxes(0, 1), heads)
        return probabilities(q.swapaxes(0, 1)[some], keys[some], select_heads(formula, some))

    return LayerHeads(heads, tokens, attention)


def from_stored(pairs: np.ndarray, rows: str) -> LayerHeads:
    """Stored attention, (pairs, H), of the kind of rows that `warehouse.schema.sites` says."""
    count, heads = pairs.shape
    tokens = triangle_side(count) if rows == TRIANGLE else round(count**0.5)
    return LayerHeads(heads, tokens, lambda some: unpack_pairs(pairs[:, some], rows))


def statistics(attention: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Probabilities (h, T, T) and `induction_targets` → (h, 6), float32, in the order of STATISTICS; NaN where no position has
    what a mean is over.
    """
    heads, t, _ = attention.shape
    out = np.full((heads, len(STATISTICS)), np.nan, np.float32)
    seeking = int(targets.any(axis=1).sum())
    # 0 ln 0 is 0; and what rounding makes more than 1 has no entropy, not less.
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
    """(T,) → (T, T), true at (i, j) where j comes before i and token j - 1 is the same as token i."""
    t = len(ids)
    targets = np.zeros((t, t), bool)
    targets[:, 1:] = ids[:, None] == ids[None, :-1]
    return targets & np.tri(t, k=-1, dtype=bool)


class HeadTable:
    """Makes rows of the table `heads`, on all of the machine's processors; a context manager, which ends its threads."""

    def __init__(self, source_run_id: str) -> None:
        """The run whose attention the rows tell of: not always the one that they belong to, which is their folder's."""
        self._source = source_run_id
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="heads")

    def rows(self, example_id: str, seq: int, side: str, ids: np.ndarray, layers: Mapping[int, LayerHeads]) -> pa.Table:
        """One sequence's, `ids` (T,) its tokens."""
        targets = induction_targets(ids)
        pieces = [
            (number, layer, slice(start, min(start + step, layer.heads)))
            for number, layer in layers.items()
            for step in [max(1, _PIECE // max(1, layer.tokens**2))]
            for start in range(0, layer.heads, step)
        ]
        found = list(self._pool.map(lambda p: statistics(p[1].attention(p[2]), targets), pieces))
        numbers = np.concatenate([np.full(len(f), n, np.int32) for f, (n, _, _) in zip(found, pieces, strict=True)])
        heads = np.concatenate([np.arange(p.start, p.stop, dtype=np.int32) for _, _, p in pieces])
        values = np.concatenate(found)
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
