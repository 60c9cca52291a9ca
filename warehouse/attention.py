"""Attention probabilities from q and k: what the stored tensors determine is not stored twice.

Scaled dot-product attention as in Vaswani et al. 2017, with the variants that a layer may declare: soft-capped scores
(Gemma 2) and a sliding window (Longformer, Mistral).
"""

from __future__ import annotations

import numpy as np

from warehouse.manifest import LayerAttention


def probabilities(q: np.ndarray, k: np.ndarray, layer: LayerAttention) -> np.ndarray:
    """(…, T, d) and (…, S, d) to float32 (…, T, S), rows summing to 1; computed in float32 whatever the inputs are."""
    scores = np.matmul(q.astype(np.float32), k.astype(np.float32).swapaxes(-1, -2))
    scores *= np.float32(layer.scale)
    if layer.softcap is not None:
        scores /= layer.softcap
        np.tanh(scores, out=scores)
        scores *= layer.softcap
    hidden = _hidden(scores.shape[-2], scores.shape[-1], layer)
    if hidden is not None:
        scores[..., hidden] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def per_query_head(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Grouped keys or values, (H_kv, T, d), repeated for each query head: (H, T, d)."""
    return np.repeat(x, n_heads // len(x), axis=0)


def _hidden(t: int, s: int, layer: LayerAttention) -> np.ndarray | None:
    """(T, S): True where a query may not look."""
    if not layer.causal and layer.window is None:
        return None
    distance = np.arange(t)[:, None] - np.arange(s)[None, :]
    hidden = distance < 0 if layer.causal else np.zeros((t, s), bool)
    if layer.window is not None:
        hidden |= distance >= layer.window
    return hidden
