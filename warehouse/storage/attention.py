"""Attention probabilities from q and k: what the stored tensors determine is not stored twice.

Scaled dot-product attention as in Vaswani et al. 2017, with the variants that a layer may declare: soft-capped scores
(Gemma 2), a sliding window (Longformer, Mistral) and sinks (gpt-oss; Xiao et al. 2023).
"""

from __future__ import annotations

import numpy as np

from warehouse.schema.sites import TRIANGLE
from warehouse.storage.model_info import LayerAttention


def probabilities(q: np.ndarray, k: np.ndarray, layer: LayerAttention) -> np.ndarray:
    """Compute attention probabilities in float32, whatever the dtype of the inputs.

    Args:
        q: Queries, (H, T, d).
        k: Keys, (H, S, d).
        layer: How the layer turns scores into attention.

    Returns:
        float32 (H, T, S); rows sum to 1, or to less where the layer has sinks.
    """
    scores = np.matmul(q.astype(np.float32), k.astype(np.float32).swapaxes(-1, -2))
    scores *= np.float32(layer.scale)
    if layer.softcap is not None:
        scores /= layer.softcap
        np.tanh(scores, out=scores)
        scores *= layer.softcap
    hidden = _hidden_positions(scores.shape[-2], scores.shape[-1], layer)
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
    count, heads = pairs.shape
    if rows == TRIANGLE:
        t = triangle_side(count)
        full = np.zeros((heads, t, t), np.float32)
        full[:, *np.tril_indices(t)] = pairs.T
        return full
    width = width or round(count**0.5)
    return np.ascontiguousarray(pairs.T, np.float32).reshape(heads, count // width, width)


def triangle_side(pairs: int) -> int:
    """Return T, the side of a lower triangle with that many pairs."""
    return round(((8 * pairs + 1) ** 0.5 - 1) / 2)


def _hidden_positions(t: int, s: int, layer: LayerAttention) -> np.ndarray | None:
    """Return the mask (T, S) of positions that a query may not see; None where it sees all."""
    if not layer.causal and layer.window is None:
        return None
    distance = np.arange(t)[:, None] - np.arange(s)[None, :]
    hidden = distance < 0 if layer.causal else np.zeros((t, s), bool)
    if layer.window is not None:
        hidden |= distance >= layer.window
        if not layer.causal:
            hidden |= distance <= -layer.window
    return hidden
