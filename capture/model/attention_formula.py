"""Finds how a layer's q and k become attention probabilities, so that attention need not be stored.

In: one call of the attention function (`attention_hook.AttentionCall`): q, k, v after position encoding, the call's options,
and its output. Out: a `LayerAttention` (scale, causal mask, sliding window, soft-cap, attention sinks), or None.

What the options can mean is written down as candidate formulas. For each, softmax(scale · q kᵀ + mask) is computed in float32
and multiplied by v; the candidate that gives the layer's attention output, within the rounding of the dtype that the model
computes in, is its formula. A layer that none fits (it has a position bias, say) has its attention stored instead. Callers:
`anatomy` on a probe, `recording.recorder` on the run's own sequences as they get longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from capture.model.attention_hook import AttentionCall
from capture.model.tolerances import formula_tolerance
from warehouse.storage.attention import per_query_head, probabilities, select_heads
from warehouse.storage.model_info import LayerAttention


@dataclass(frozen=True)
class _Candidate:
    error: float
    formula: LayerAttention


def find_formula(call: AttentionCall) -> tuple[LayerAttention | None, float]:
    """Find the formula that gives an attention call's output.

    Returns:
        The formula, None where no known one gives the output; and the relative error of the best.
    """
    best = min((_Candidate(_error(call, f), f) for f in _candidate_formulas(call)), key=lambda c: c.error)
    exact = best.error <= formula_tolerance(call.out.dtype)
    return (best.formula if exact else None), best.error


def sequence_error(call: AttentionCall, formula: LayerAttention, sequence: int, tokens: int, keys: int) -> float:
    """Return a formula's error on the first head of one sequence of a batch, whatever its output was then changed to.

    Args:
        call: The call of the attention function, over a right-padded batch.
        formula: The formula of the layer that made it.
        sequence: The sequence's row in the batch.
        tokens: Its number of queries, padding left out.
        keys: Its number of keys, padding left out.

    Returns:
        The largest difference, relative to the output's largest value.
    """
    q, k, v = call.q[sequence, :1, :tokens], call.k[sequence, :1, :keys], call.v[sequence, :1, :keys]
    out = (call.out if call.unchanged is None else call.unchanged)[sequence, :tokens, :1]
    one = AttentionCall(call.module, q[None], k[None], v[None], call.options, out[None], None)
    return _error(one, select_heads(formula, slice(0, 1)))


def eager_error(call: AttentionCall) -> float:
    """Return how far the probabilities that eager attention gave are, times v, from its own output.

    Some models give them before their sinks take their part.

    Returns:
        The largest difference, relative to the output's largest value; infinity where no probabilities were given.
    """
    if call.probabilities is None:
        return float("inf")
    v = call.v.repeat_interleave(call.q.shape[1] // call.v.shape[1], dim=1)
    out = torch.matmul(call.probabilities.to(v.dtype), v).transpose(1, 2)
    return float((out - call.out).abs().max() / call.out.abs().max().clamp(min=1e-30))


def _candidate_formulas(call: AttentionCall) -> Iterator[LayerAttention]:
    """Yield every formula that the call's options can mean.

    A window of w tokens is the token itself and w - 1 before it where attention is causal; encoders count it to either side,
    and not all alike.

    Yields:
        The candidates, the likeliest first.
    """
    scale, sinks = call.options.get("scaling"), call.options.get("s_aux")
    window = call.options.get("sliding_window")
    fixed: dict[str, Any] = {
        "scale": call.q.shape[-1] ** -0.5 if scale is None else float(scale),
        "softcap": call.options.get("softcap"),
        "sinks": None if sinks is None else sinks.detach().float().flatten().tolist(),
    }
    if call.q.shape[2] == call.k.shape[2]:
        yield LayerAttention(causal=True, window=window, **fixed)
    reaches = [None] if window is None else [window, window + 1, window // 2 + 1]
    for reach in reaches:
        yield LayerAttention(causal=False, window=reach, **fixed)


def _error(call: AttentionCall, formula: LayerAttention) -> float:
    q, k, v = (x[0].float().cpu().numpy() for x in (call.q, call.k, call.v))
    attention = probabilities(q, per_query_head(k, len(q)), formula)
    derived = np.matmul(attention, per_query_head(v, len(q))).swapaxes(0, 1)
    out = call.out[0].float().cpu().numpy()
    if derived.shape != out.shape:
        return float("inf")
    return float(np.abs(derived - out).max() / max(np.abs(out).max(), 1e-30))
