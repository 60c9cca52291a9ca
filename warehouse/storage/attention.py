"""Attention probabilities from q and k: what the stored tensors determine is not stored twice.

Scaled dot-product attention as in Vaswani et al. 2017, with the variants that a layer may declare: soft-capped scores
(Gemma 2), a sliding window (Longformer, Mistral) and sinks (gpt-oss; Xiao et al. 2023).
"""

from __future__ import annotations

import numpy as np

from warehouse.schema.sites import TRIANGLE
from warehouse.storage.model_info import LayerAttention


def probabilities(q: np.ndarray, k: np.ndarray, layer: LayerAttention, first: int = 0) -> np.ndarray:
    """Compute attention probabilities in float32, whatever the dtype of the inputs.

    Args:
        q: Queries, (H, T, d).
        k: Keys, (H, S, d).
        layer: How the layer turns scores into attention.
        first: The position of the first query, where they are only some of the sequence's.

    Returns:
        float32 (H, T, S); rows sum to 1, or to less where the layer has sinks.
    """
    scores = np.matmul(q.astype(np.float32, copy=False), k.astype(np.float32, copy=False).swapaxes(-1, -2))
    scores *= np.float32(layer.scale)
    if layer.softcap is not None:
        scores /= layer.softcap
        np.tanh(scores, out=scores)
        scores *= layer.softcap
    hidden = _hidden_positions(first, scores.shape[-2], scores.shape[-1], layer)
    if hidden is not None:
        scores[..., hidden] = -np.inf
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)  # `initial` is for sequences without tokens
    sinks = None if layer.sinks is None else np.asarray(layer.sinks, np.float32)[:, None, None]
    if sinks is not None:
        peak = np.maximum(peak, sinks)
    scores -= peak
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total += np.exp(sinks - peak)
    scores /= total
    return scores


def select_heads(layer: LayerAttention, heads: slice) -> LayerAttention:
    """Return how some of a layer's query heads turn scores into attention."""
    return layer if layer.sinks is None else layer.model_copy(update={"sinks": layer.sinks[heads]})


def per_query_head(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Repeat grouped keys or values, (H_kv, T, d), for each query head: (H, T, d)."""
    return np.repeat(x, n_heads // len(x), axis=0)


def unpack_pairs(pairs: np.ndarray, rows: str, width: int = 0) -> np.ndarray:
    """Unpack stored attention into matrices.

    Args:
        pairs: Probabilities of (query, key) pairs, (pairs, H), row by row of the matrix.
        rows: Which pairs they are: `triangle` (the lower one), `square`, or `cross`.
        width: Tokens of the encoder, for `cross`.

    Returns:
        float32 (H, T, T), or (H, T, width) for `cross`.
    """
    if rows == TRIANGLE:
        t = triangle_side(len(pairs))
        return unpack_rows(pairs, rows, range(t), t)
    width = width or round(len(pairs) ** 0.5)
    return unpack_rows(pairs, rows, range(len(pairs) // width if width else 0), width)


def unpack_rows(pairs: np.ndarray, rows: str, queries: range, width: int) -> np.ndarray:
    """Unpack some rows of stored attention.

    Args:
        pairs: Probabilities of the pairs of these queries, (pairs, H): those that `pair_range` names.
        rows: Which pairs the tensor has.
        queries: Which rows of the matrix they are.
        width: The width of the matrix.

    Returns:
        float32 (H, len(queries), width).
    """
    heads = pairs.shape[1]
    if rows == TRIANGLE:
        full = np.zeros((heads, len(queries), width), np.float32)
        full[:, np.tri(len(queries), width, queries.start, dtype=bool)] = pairs.T
        return full
    return np.ascontiguousarray(pairs.T, np.float32).reshape(heads, len(queries), width)


def pair_range(rows: str, queries: range, width: int) -> range:
    """Return which pairs of a stored matrix are those of some of its rows: they lie one after the other."""
    if rows == TRIANGLE:
        return range(queries.start * (queries.start + 1) // 2, queries.stop * (queries.stop + 1) // 2)
    return range(queries.start * width, queries.stop * width)


def triangle_side(pairs: int) -> int:
    """Return T, the side of a lower triangle with that many pairs."""
    return round(((8 * pairs + 1) ** 0.5 - 1) / 2)


def _hidden_positions(first: int, t: int, s: int, layer: LayerAttention) -> np.ndarray | None:
    """Return the mask (T, S) of positions that each query from `first` on may not see; None where all see all."""
    if not layer.causal and layer.window is None:
        return None
    distance = np.arange(first, first + t)[:, None] - np.arange(s)[None, :]
    hidden = distance < 0 if layer.causal else np.zeros((t, s), bool)
    if layer.window is not None:
        hidden |= distance >= layer.window
        if not layer.causal:
            hidden |= distance <= -layer.window
    return hidden
