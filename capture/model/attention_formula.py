"""How a layer's q and k become attention, found by trying: probabilities times v must give what the layer's attention gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from capture.model.attention_hook import AttentionCall
from warehouse.storage.attention import per_query_head, probabilities, select_heads
from warehouse.storage.manifest import LayerAttention

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


def formula_tolerance(dtype: torch.dtype) -> float:
    """How far derived probabilities times v may be from the model's attention output, relative to its largest value: rounding
    of the dtype it computes in, with room for kernels that sum in another order.
    """
    return _TOLERANCE.get(dtype, 1e-4)


@dataclass(frozen=True)
class _Candidate:
    error: float
    formula: LayerAttention


def find_formula(call: AttentionCall) -> tuple[LayerAttention | None, float]:
    """The formula, None where no form that is known gives the output (a position bias, say), and its relative error."""
    best = min((_Candidate(_error(call, layer), layer) for layer in _candidate_formulas(call)), key=lambda t: t.error)
    exact = best.error <= formula_tolerance(call.out.dtype)
    return (best.formula if exact else None), best.error


def sequence_error(call: AttentionCall, formula: LayerAttention, sequence: int, tokens: int, keys: int) -> float:
    """The relative error of a formula for the first head of one sequence of a batch, its first `tokens` queries and `over`
    keys being real.
    """
    q, k, v = call.q[sequence, :1, :tokens], call.k[sequence, :1, :keys], call.v[sequence, :1, :keys]
    out = call.out[sequence, :tokens, :1]
    one = AttentionCall(call.module, q[None], k[None], v[None], call.options, out[None], None)
    return _error(one, select_heads(formula, slice(0, 1)))


def eager_error(call: AttentionCall) -> float:
    """How far the probabilities that eager attention gave are, times v, from its output, relative to its size: some models
    give them before their sinks take their part.
    """
    if call.probabilities is None:
        return float("inf")
    v = call.v.repeat_interleave(call.q.shape[1] // call.v.shape[1], dim=1)
    out = torch.matmul(call.probabilities.to(v.dtype), v).transpose(1, 2)
    return float((out - call.out).abs().max() / call.out.abs().max().clamp(min=1e-30))


def _candidate_formulas(call: AttentionCall) -> Iterator[LayerAttention]:
    """What the call's options can mean. A window of w tokens is the token itself and w - 1 before it where attention is
    causal; encoders count it to either side, and not all alike.
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
