"""Next-token diagnostics: what a model predicted at each position, against the token that came.

In go last states and the true ids; out come `Diagnostics`, over the full vocabulary and in float32. Loss is the cross-entropy
-ln p(true), entropy is -Σ p ln p (Shannon 1948), both in nats. They are computed from logits and not from probabilities: a loss
is finite where its probability is below what float32 can hold, and infinite only where the token cannot come. A row with a logit
that is NaN or +infinity has no distribution: all its diagnostics are NaN.

Logits are computed and used in slices of rows, so that memory doesn't grow with batch times vocabulary. Within a slice the work
goes over pieces that fit a processor's cache, since reading the logits from memory is most of the cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

_SLICE_BYTES = 128 << 20
"""Bytes of float32 logits that exist at a time."""
_PIECE_BYTES = 12 << 20
"""Bytes of logits that fit a processor's cache."""
_BLOCK = 8
"""Width of the blocks whose maxima narrow down the search for the k largest logits."""


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of N positions, (N,) each, and (N, k) for the k most probable tokens.

    Those are sorted, the most probable first, and among equals the lower id first.
    """

    pred_id: np.ndarray
    true_prob: np.ndarray
    pred_prob: np.ndarray
    true_rank: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray
    topk_ids: np.ndarray
    topk_probs: np.ndarray


def next_token_diagnostics(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, true_ids: torch.Tensor, vocabulary: int, k: int
) -> Diagnostics:
    """Compute the diagnostics of predictions.

    Args:
        head: Turns states (n, D) into logits (n, vocabulary).
        hidden: The last state (N, D) at N positions.
        true_ids: The tokens (N,) that came next.
        vocabulary: How many tokens have a logit.
        k: How many of the most probable tokens to keep.

    Returns:
        The diagnostics of the N positions.

    Raises:
        ValueError: N is 0.
    """
    count = len(true_ids)
    if count == 0:
        raise ValueError("no position has a next token")
    k = min(k, vocabulary)
    slices = -(-count * vocabulary * 4 // _SLICE_BYTES)
    rows = -(-count // slices)
    piece = max(1, _PIECE_BYTES // (vocabulary * 4))
    pieces: list[Reading] = []
    with torch.no_grad():
        for start in range(0, count, rows):
            logits = head(hidden[start : start + rows]).float()  # nobody else uses them: they are overwritten
            true = true_ids[start : start + rows].to(logits.device)
            scratch = torch.empty((min(piece, len(true)), vocabulary), device=logits.device)
            for i in range(0, len(true), piece):
                pieces.append(read(logits[i : i + piece], true[i : i + piece], k, scratch, scratch))
    columns = [torch.cat(c).cpu().numpy() for c in zip(*pieces, strict=True)]
    true_prob, true_log, true_rank, entropy, _, ids, probs = columns
    # Absolute values: a sign would turn 0 into -0.
    return Diagnostics(ids[:, 0], true_prob, probs[:, 0], true_rank, entropy, np.abs(true_log), ids, probs)


class Reading(NamedTuple):
    """What n distributions say, (n,) each, and (n, k) for the k most probable tokens, sorted as in Diagnostics."""

    true_prob: torch.Tensor
    true_log: torch.Tensor
    """The log-probability ln p(true), never above 0."""
    true_rank: torch.Tensor
    entropy: torch.Tensor
    log_sum: torch.Tensor
    """The normaliser ln Σ exp(logit - largest logit)."""
    topk_ids: torch.Tensor
    topk_probs: torch.Tensor


def read(logits: torch.Tensor, true_ids: torch.Tensor, k: int, probs: torch.Tensor, scratch: torch.Tensor) -> Reading:
    """Read n distributions.

    Args:
        logits: (n, V) float32. Afterwards each row is less by its largest logit.
        true_ids: (n,), the tokens that came.
        k: How many of the most probable tokens to keep.
        probs: (n or more, V), whose first n rows become the probabilities.
        scratch: Memory of the same size; is `probs` if the probabilities are not needed.

    Returns:
        What the distributions say, in nats where a logarithm is taken.
    """
    keeps = probs is not scratch
    probs, scratch = probs[: len(logits)], scratch[: len(logits)]
    true_logit = logits.gather(1, true_ids[:, None])
    # Counted as floats, exact up to 2^24 of them: several times faster than summing booleans.
    true_rank = torch.gt(logits, true_logit, out=scratch).sum(1).to(torch.int32) + 1
    top_logits, top_ids = _top(logits, k)
    peak = top_logits[:, :1]
    logits.sub_(peak)
    weights = torch.exp(logits, out=probs)
    total = weights.sum(1, keepdim=True)  # 1 or more: the peak's is 1
    log_sum = total.log()
    true_log = (true_logit - peak - log_sum)[:, 0]
    top_probs = (top_logits - peak - log_sum).exp()
    # ln p = (logit - peak) - ln Σ exp(logit - peak), and no logit is above the peak's, which is 0.
    entropy = log_sum[:, 0] + (_expected(weights, logits, scratch) / total[:, 0]).abs()
    if keeps:
        weights /= total
    return Reading(true_log.exp(), true_log, true_rank, entropy, log_sum[:, 0], top_ids.to(torch.int32), top_probs)


def divergence(
    p: torch.Tensor, entropy: torch.Tensor, logits: torch.Tensor, log_sum: torch.Tensor, scratch: torch.Tensor
) -> torch.Tensor:
    """Compute KL(p ‖ q) = -H(p) - Σ p ln q of n pairs of distributions.

    Args:
        p: Probabilities (n, V).
        entropy: Their entropy (n,), nats.
        logits: Those of q (n, V), as `read` leaves them.
        log_sum: That of q (n,), as `read` returns it.
        scratch: Memory of the size of p.

    Returns:
        The divergence (n,), nats: infinite where q rules out a token that p allows.
    """
    return (log_sum - _expected(p, logits, scratch) - entropy).clamp_(min=0)  # below 0 by rounding alone


def _expected(p: torch.Tensor, logits: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Return Σ p · logit, (n,), for logits up to 0.

    As a product of two halves with two halves, of which the two that belong together are used: BLAS reads p and logits once, and
    writes nothing.
    """
    half = logits.shape[1] // 2
    ours, theirs = (x[:, : 2 * half].unflatten(1, (2, half)) for x in (p, logits))
    sums = torch.bmm(ours, theirs.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(1)
    sums += (p[:, 2 * half :] * logits[:, 2 * half :]).sum(1)
    if bool(sums.isnan().any()):  # a token that cannot come adds nothing, but 0 times its infinite logit is NaN
        sums = torch.mul(p, logits, out=scratch).nan_to_num_(nan=0.0, neginf=-torch.inf).sum(1)
    return sums


def _top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest logits of each row and their ids.

    Returns:
        Values and ids, (n, k) each, sorted; among equals the lower id first.
    """
    more = min(k + 1, logits.shape[1])  # a tie across the border is one too
    top, ids = _largest(logits, more)
    tied = (top[:, 1:] == top[:, :-1]).any(1).nonzero()[:, 0]
    if len(tied):
        top[tied], ids[tied] = _first_largest(logits[tied], more)
    return top[:, :k], ids[:, :k]


def _largest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest of each row, sorted, and their indices; among equals any.

    They lie in the k blocks with the largest maxima, or in the rest that fills no block. A block is every so manieth value, so that
    maxima are taken of whole stretches of memory at a time. Blocks are found in the same way, and only their values looked at.

    Returns:
        Values and indices, (n, k) each.
    """
    width = values.shape[1]
    blocks = width // _BLOCK
    if blocks <= 2 * k:
        top, at = values.topk(k, dim=1)
        return top, at
    within = torch.arange(0, blocks * _BLOCK, blocks, device=values.device)
    chosen = _largest(values[:, : blocks * _BLOCK].unflatten(1, (_BLOCK, blocks)).amax(1), k)[1]
    candidates = _with_rest((chosen[:, None, :] + within[:, None]).flatten(1), blocks * _BLOCK, width)
    top, at = values.gather(1, candidates).topk(k, dim=1)
    return top, candidates.gather(1, at)


def _first_largest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest of each row, sorted, and their indices; among equals the first.

    A block is a stretch of values here, and blocks stay in their order: takes longer than `_largest`.

    Returns:
        Values and indices, (n, k) each.
    """
    blocks = values.shape[1] // _BLOCK
    if blocks <= 2 * k:
        ordered = values.sort(dim=1, descending=True, stable=True)
        return ordered.values[:, :k], ordered.indices[:, :k]
    within = torch.arange(_BLOCK, device=values.device)
    chosen = (
        _first_largest(values[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)).amax(2), k)[1].sort(dim=1).values
    )
    candidates = _with_rest((chosen[:, :, None] * _BLOCK + within).flatten(1), blocks * _BLOCK, values.shape[1])
    top, at = _first_largest(values.gather(1, candidates), k)
    return top, candidates.gather(1, at)


def _with_rest(candidates: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return candidates (n, c) and after them, in each row, the indices from `start` to `end`."""
    rest = torch.arange(start, end, device=candidates.device).expand(len(candidates), -1)
    return torch.cat([candidates, rest], dim=1)
