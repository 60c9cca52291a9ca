"""What each part of a model adds to a logit, or to the difference of two: direct logit attribution, by head and source token.

The final residual stream is the embedding and all that heads and MLPs added to it. With the final norm's scale held at its value there,
a logit is linear in that stream (`capture.model.logit_direction`), so that each part times the direction u is its part of the logit,
and the parts add up (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). What head h adds at position i is the
sum over source tokens j of alpha_ij W_O v_j: so a head's part is one of each token that it read. Only row i of attention is needed, and
u goes through W_O first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from capture.influences.identities import HEADS, LOGIT, STREAM, IdentityErrors
from capture.influences.layers import LayerParts
from capture.influences.states import SequenceStates
from capture.model.logit_direction import LogitDirection


class LogitParts(NamedTuple):
    """The parts of one logit, as columns of `logit_parts`; -1 stands for NULL."""

    part: np.ndarray
    layer: np.ndarray
    head: np.ndarray
    source_pos: np.ndarray
    logit: np.ndarray

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(self.logit.sum())


def explain_logit(
    states: SequenceStates, layers: list[LayerParts], direction: LogitDirection, pos: int, errors: IdentityErrors
) -> LogitParts:
    """Take a logit apart.

    Args:
        states: The sequence.
        layers: How each layer is taken apart.
        direction: The logit as a function of the final residual stream at `pos`.
        pos: The position that the prediction is made from.
        errors: Counts how exactly the identities hold.

    Returns:
        Its parts: embed, heads by source token, attn, mlp, bias.
    """
    u = direction.vector.numpy()
    added = _Added()
    entering = stream = states.embedding(pos).astype(np.float64)
    added.put("embed", -1, -1, pos, u @ stream)
    bias = direction.bias
    for i, layer in enumerate(layers):
        leaving = states.stream("post_mlp", i, pos).astype(np.float64)
        middle = states.stream("post_attn", i, pos).astype(np.float64) if layer.halves else leaving
        if layer.heads is not None:
            weight = layer.heads.weight
            first, attention = states.attention_row(i, pos)
            values = _per_query_head(states.values(i, slice(first, pos + 1)), len(weight))  # (n, H, d)
            towards = (weight @ direction.vector.to(weight)).double().cpu().numpy()  # (H, d)
            logits = attention * np.einsum("nhd,hd->hn", values, towards)
            heads, sources = np.indices(logits.shape)
            added.put("head", i, heads.ravel(), first + sources.ravel(), logits.ravel())
            outputs = torch.from_numpy(np.einsum("hn,nhd->hd", attention, values)).to(weight)
            heads_sum = torch.einsum("hd,hdw->w", outputs, weight) + layer.heads.bias
            own_bias = layer.heads.bias.double().cpu().numpy()
            bias += float(u @ own_bias)
            attended = heads_sum.double().cpu().numpy()
            errors.count(HEADS, attended, middle - entering, i)
        elif layer.attends:
            attended = middle - entering
            added.put("attn", i, -1, -1, u @ attended)
        else:
            attended = np.zeros_like(entering)
            middle = entering
        if layer.halves or not layer.attends:
            added.put("mlp", i, -1, -1, u @ (leaving - middle))
        stream = stream + attended + (leaving - middle)
        entering = leaving
    added.put("bias", -1, -1, -1, bias)
    parts = added.all()
    errors.count(STREAM, stream, entering)
    errors.count(LOGIT, parts.total, direction.logit)
    return parts


def _per_query_head(values: np.ndarray, heads: int) -> np.ndarray:
    """Repeat grouped values, (n, H_kv, d), for each query head: (n, H, d)."""
    return np.repeat(values, heads // values.shape[1], axis=1)


class _Added:
    """Parts as they are found."""

    def __init__(self) -> None:
        self._columns: list[tuple[np.ndarray, ...]] = []

    def put(self, part: str, layer: int, head: int | np.ndarray, source_pos: int | np.ndarray, logit: object) -> None:
        values = np.atleast_1d(np.asarray(logit, np.float64))
        n = len(values)
        numbers = (np.broadcast_to(np.asarray(x, np.int32), n) for x in (layer, head, source_pos))
        self._columns.append((np.full(n, part, object), *numbers, values))

    def all(self) -> LogitParts:
        return LogitParts(*(np.concatenate(column) for column in zip(*self._columns, strict=True)))
