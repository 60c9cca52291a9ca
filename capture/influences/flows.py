"""Where a prediction came from, followed back through the layers: shares of information flow, and norms of what attention reads.

Each layer's attention is a matrix of shares: which part of what position i is after it comes from position j, through which head, or
stays in the residual stream. A share is never negative, and all into one position sum to 1, so that what a prediction is made of can be
rolled back from the last layer to the tokens.

IFR (Ferrando & Voita 2024, "Information Flow Routes", as in the LLM Transparency Tool): a part's importance for the sum y is
max(|y|₁ - |y - part|₁, 1e-5), over all parts and the residual stream. Value norms (Kobayashi et al. 2020 and 2021): ‖Σ_h α_ij W_O v_j‖₂,
where position i's own has what it was before the attention added to it. An MLP reads the position that it writes, so that it moves
nothing from one position to another.

In: a sequence's stored states. Out: for each prediction the shares of its source tokens and, of IFR, the edges that much of it passes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from capture.influences.layers import LayerParts
from capture.influences.states import SequenceStates
from capture.model.head_outputs import HeadOutputs

_LEAST = 1e-5
"""The least importance of a part that is there at all."""
_PIECE_VALUES = 1 << 19
"""Numbers of a piece of what is subtracted from a sum: it stays in the processor's cache."""
_ATTENTION_VALUES = 1 << 24
"""Numbers of attention that exist at a time, unless one head has more."""


class Edges(NamedTuple):
    """Edges of one prediction's dependency graph, as columns of `token_edges`; head -1 stands for NULL."""

    layer: np.ndarray
    head: np.ndarray
    pos: np.ndarray
    source_pos: np.ndarray
    share: np.ndarray
    flow: np.ndarray


class Flows(NamedTuple):
    """What predictions of one sequence are made of."""

    shares: np.ndarray
    """(predictions, n): each source token's share, of the first n positions; rows sum to 1."""
    edges: list[Edges]
    """Of each prediction; empty for value norms."""


def follow_ifr(states: SequenceStates, layers: list[LayerParts], targets: list[int], least_flow: float) -> Flows:
    """Follow the information flow of predictions back to the tokens.

    Args:
        states: The sequence.
        layers: How each layer is taken apart: with heads, where it attends.
        targets: The positions that the predictions are made from.
        least_flow: The smallest flow of an edge that is kept.

    Returns:
        The shares, and the edges that at least `least_flow` of a prediction passes.
    """
    n = max(targets) + 1
    flow = _begin(targets, n)
    edges: list[list[Edges]] = [[] for _ in targets]
    for i in reversed(range(len(layers))):
        heads = layers[i].heads
        if heads is None:
            continue
        rows = np.flatnonzero(flow.any(0))
        entering, leaving = (_on_device(states.stream(s, i, slice(0, n)), heads) for s in ("pre_attn", "post_attn"))
        parts, stays = _ifr_shares(states, i, heads, rows, entering, leaving)
        passed = np.zeros_like(flow)
        for t, f in enumerate(flow[:, rows]):
            through = f[:, None, None] * parts
            kept = f * stays
            edges[t] += _keep_edges(i, rows, parts, through, stays, kept, least_flow)
            passed[t] = through.sum((0, 1))
            passed[t, rows] += kept
        flow = passed
    return Flows(flow, [Edges(*(np.concatenate(c) for c in zip(*e, strict=True))) for e in edges])


def follow_value_norms(states: SequenceStates, layers: list[LayerParts], targets: list[int]) -> Flows:
    """Follow predictions back to the tokens by the norms of what attention reads, the residual stream counted."""
    n = max(targets) + 1
    flow = _begin(targets, n)
    for i in reversed(range(len(layers))):
        heads = layers[i].heads
        if heads is not None:
            flow = flow @ _value_norm_shares(states, i, heads, n)
    return Flows(flow, [])


def _begin(targets: list[int], n: int) -> np.ndarray:
    """Return the flow after the last layer, (predictions, n): all of it at the position that predicts."""
    flow = np.zeros((len(targets), n))
    flow[np.arange(len(targets)), targets] = 1
    return flow


def _on_device(x: np.ndarray, heads: HeadOutputs) -> torch.Tensor:
    return torch.from_numpy(x).to(heads.weight.device)


# -- shares of one layer -----------------------------------------------------------------------------------------------


def _ifr_shares(
    states: SequenceStates,
    layer: int,
    heads: HeadOutputs,
    rows: np.ndarray,
    entering: torch.Tensor,
    leaving: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares into some positions.

    Args:
        states: The sequence.
        layer: The layer.
        heads: How its heads add to the stream.
        rows: The R positions.
        entering: (n, D), the stream before its attention.
        leaving: (n, D), the stream after it.

    Returns:
        Those of each head and source, (R, H, n), and of the residual stream, (R,).
    """
    n, (count, _, width) = len(entering), heads.weight.shape
    wholes = leaving[rows]
    sizes = wholes.abs().sum(1)
    values = _on_device(states.values(layer, slice(0, n)), heads).transpose(0, 1)
    importance = torch.zeros((count, len(rows), n), device=values.device)
    for some in _head_slices(count, n, max(1, _PIECE_VALUES // (n * width))):
        attention = _on_device(states.attention(layer, n, some)[:, rows], heads)
        own = [h * len(values) // count for h in range(count)[some]]
        read = (
            values[own] @ heads.weight[some]
        )  # (heads, n, D): what each adds of each source if it attends to that alone
        _set_importance(importance[some], attention, read, wholes, sizes, rows)
    stays = (sizes - (wholes - entering[rows]).abs().sum(1)).clamp(min=_LEAST)
    total = (importance.sum((0, 2), dtype=torch.float64) + stays).cpu().numpy()
    shares = importance.transpose(0, 1).double().cpu().numpy() / total[:, None, None]
    return shares, stays.double().cpu().numpy() / total


def _set_importance(
    importance: torch.Tensor,
    attention: torch.Tensor,
    read: torch.Tensor,
    wholes: torch.Tensor,
    sizes: torch.Tensor,
    rows: np.ndarray,
) -> None:
    """Set the importance of G heads for each row and source, 0 where nothing is attended to.

    Args:
        importance: (G, R, n), set here.
        attention: (G, R, n)
        read: (G, n, D)
        wholes: (R, D): the sums that each part is one of.
        sizes: (R,): their L1 norms.
        rows: The rows' positions, in order: none sees a later one.
    """
    pairs, start = _PIECE_VALUES // (len(read) * read.shape[2]), 0
    while start < len(rows):
        before = int(rows[start])  # a piece of s rows sees before + s sources at most
        step = max(1, int(((before * before + 4 * pairs) ** 0.5 - before) / 2))
        piece = slice(start, start + step)
        seen = int(rows[piece][-1]) + 1
        weights = attention[:, piece, :seen]
        without = torch.addcmul(wholes[piece, None], weights[..., None], read[:, None, :seen], value=-1)
        found = sizes[piece, None] - without.abs_().sum(-1)  # ten times as fast as torch's L1 norm
        importance[:, piece, :seen] = found.clamp_(min=_LEAST).masked_fill_(weights == 0, 0)
        start += step


def _value_norm_shares(states: SequenceStates, layer: int, heads: HeadOutputs, n: int) -> np.ndarray:
    """Return the shares (n, n) of each source token in each position, by norm."""
    count = len(heads.weight)
    values = _on_device(states.values(layer, slice(0, n)), heads)
    attention = _on_device(
        np.concatenate([states.attention(layer, n, s) for s in _head_slices(count, n, count)]), heads
    )
    per_head = values.repeat_interleave(count // values.shape[1], dim=1)
    read = torch.einsum("nhd,hdw->nhw", per_head, heads.weight)
    products = torch.einsum("nhw,ngw->nhg", read, read)  # of what two heads read from a token
    squares = torch.einsum("hin,nhg,gin->in", attention, products, attention)
    norms = squares.clamp_(min=0).sqrt_()
    own = torch.einsum("hn,nhw->nw", attention.diagonal(dim1=1, dim2=2), read)
    norms.diagonal().copy_((own + _on_device(states.stream("pre_attn", layer, slice(0, n)), heads)).norm(dim=1))
    shares = norms.double().cpu().numpy()
    return shares / shares.sum(1, keepdims=True)


def _head_slices(count: int, n: int, most: int) -> list[slice]:
    """Cut a layer's heads into slices of at most `most`, whose attention among n positions fits in memory."""
    step = min(most, max(1, _ATTENTION_VALUES // (n * n)))
    return [slice(h, min(h + step, count)) for h in range(0, count, step)]


# -- edges -------------------------------------------------------------------------------------------------------------


def _keep_edges(
    layer: int,
    rows: np.ndarray,
    parts: np.ndarray,
    through: np.ndarray,
    stays: np.ndarray,
    kept: np.ndarray,
    least_flow: float,
) -> list[Edges]:
    """Return a layer's edges of one prediction that at least `least_flow` of it passes.

    Args:
        layer: The layer.
        rows: The R positions.
        parts: Shares (R, H, n).
        through: Flow over each of them.
        stays: The residual stream's shares (R,).
        kept: Flow over each of them.
        least_flow: The smallest flow that is kept.

    Returns:
        Those through heads, and those of the residual stream.
    """
    at, head, source = np.nonzero(through >= least_flow)
    (still,) = np.nonzero(kept >= least_flow)
    own = rows[still]
    return [
        Edges(np.full(len(at), layer), head, rows[at], source, parts[at, head, source], through[at, head, source]),
        Edges(np.full(len(own), layer), np.full(len(own), -1), own, own, stays[still], kept[still]),
    ]
