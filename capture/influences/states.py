"""The stored states of one sequence, as influence is computed from them: the stream at a stage, values, and attention.

In: a run and one of its sequences. Out: float32 arrays of the positions that are asked for. What one row of the attention matrix needs
is read and computed for that row alone.
"""

from __future__ import annotations

import numpy as np

from capture.influences.options import SIDE
from warehouse.schema.sites import Key
from warehouse.storage.attention import per_query_head, probabilities, select_heads
from warehouse.storage.model_info import LayerAttention
from warehouse.storage.trace_store import TraceStore

Rows = int | slice | np.ndarray
"""Positions: one, which gives an array without a dimension for them, or several."""


class SequenceStates:
    """One sequence of a run."""

    def __init__(self, store: TraceStore, example_id: str, seq: int) -> None:
        self.store, self.example_id, self.seq = store, example_id, seq
        self._formulas = store.meta.model.stack(SIDE).attention
        self._parallel = store.meta.model.parallel

    def stream(self, stage: str, layer: int, rows: Rows) -> np.ndarray:
        """Return the residual stream at `pre_attn`, `post_attn` or `post_mlp` of a layer, (…, D)."""
        if stage == "pre_attn":
            return self.embedding(rows) if layer == 0 else self.stream("post_mlp", layer - 1, rows)
        key = Key(SIDE, f"resid.{stage}", layer)
        if stage == "post_attn" and self._parallel and not self.store.has(key):
            return self.stream("pre_attn", layer, rows) + self._rows(Key(SIDE, "attn_out", layer), rows)
        return self._rows(key, rows)

    def embedding(self, rows: Rows) -> np.ndarray:
        """Return what enters the first layer, (…, D)."""
        return self._rows(Key(SIDE, "resid.embed", None), rows)

    def values(self, layer: int, rows: Rows) -> np.ndarray:
        """Return the values that a layer's attention reads, (…, H_kv, d)."""
        return self._rows(Key(SIDE, "v", layer), rows)

    def attention_row(self, layer: int, pos: int) -> tuple[int, np.ndarray]:
        """Return what one position attends to.

        Args:
            layer: The layer.
            pos: The position.

        Returns:
            The first position that it sees, and its attention (H, n) from there to itself.
        """
        if self.store.has(Key(SIDE, "attn", layer)):
            start = pos * (pos + 1) // 2  # rows of the lower triangle, one after the other
            return 0, self._rows(Key(SIDE, "attn", layer), slice(start, start + pos + 1)).T
        formula = self._formula(layer)
        first = 0 if formula.window is None else max(0, pos + 1 - formula.window)
        q = self._rows(Key(SIDE, "q", layer), pos)
        k = self._rows(Key(SIDE, "k", layer), slice(first, pos + 1)).swapaxes(0, 1)
        seen = formula.model_copy(update={"causal": False, "window": None})  # nothing else is among the keys
        return first, probabilities(q[:, None], per_query_head(k, len(q)), seen)[:, 0]

    def attention(self, layer: int, n: int, heads: slice) -> np.ndarray:
        """Return the attention of some heads among the first n positions, (H, n, n)."""
        if self.store.has(Key(SIDE, "attn", layer)):
            pairs = self._rows(Key(SIDE, "attn", layer), slice(0, n * (n + 1) // 2))[:, heads]
            full = np.zeros((pairs.shape[1], n, n), np.float32)
            full[:, *np.tril_indices(n)] = pairs.T
            return full
        q, k = (self._rows(Key(SIDE, name, layer), slice(0, n)).swapaxes(0, 1) for name in ("q", "k"))
        return probabilities(q[heads], per_query_head(k, len(q))[heads], select_heads(self._formula(layer), heads))

    def _formula(self, layer: int) -> LayerAttention:
        assert self._formulas is not None
        formula = self._formulas[layer]
        assert formula is not None
        return formula

    def _rows(self, key: Key, rows: Rows) -> np.ndarray:
        stored: np.ndarray = self.store.rows(key, self.example_id, self.seq)
        return stored[rows].astype(np.float32)
