"""How far two models' distributions of the next token are apart, from their logits.

KL(p || q) = Σ p (ln p - ln q) (Kullback and Leibler 1951), over the whole vocabulary, in nats and in float32. It is summed as
Σ p·d - (ln Z_p - ln Z_q) with d the difference of the logits, each less its row's largest, so that two equal rows give exactly 0.
Work goes over pieces that stay in a processor's cache, and overwrites the logits: next to the matrix products that made them,
reading them from memory is most of the cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_PIECE_BYTES = 3 << 20
"""Logits of one model that are compared together: with the other's and their difference they stay in the cache."""


class Divergences(NamedTuple):
    """What two models predict at n tokens, (n,) each; columns of `comparisons`."""

    kl: torch.Tensor
    kl_reverse: torch.Tensor
    top1_id: torch.Tensor
    top1_prob: torch.Tensor
    other_top1_id: torch.Tensor
    other_top1_prob: torch.Tensor


def compare_logits(a: torch.Tensor, b: torch.Tensor) -> Divergences:
    """Compare the distributions of n pairs of rows.

    Args:
        a: Logits of the first model, (n, V) float32; overwritten.
        b: Those of the other.

    Returns:
        The divergences, in nats, infinite where a model rules out a token that the other allows, and the most probable tokens, the
        lowest id first among equals. NaN where a logit is.
    """
    rows = max(1, _PIECE_BYTES // (a.shape[1] * 4))
    scratch = torch.empty((min(rows, len(a)), a.shape[1]), device=a.device)
    pieces = [_compare_piece(a[i : i + rows], b[i : i + rows], scratch) for i in range(0, len(a), rows)]
    return Divergences(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def _compare_piece(a: torch.Tensor, b: torch.Tensor, scratch: torch.Tensor) -> Divergences:
    scratch = scratch[: len(a)]
    a_peak, a_top = _peak(a)
    b_peak, b_top = _peak(b)
    difference = torch.sub(a.sub_(a_peak), b.sub_(b_peak), out=scratch)
    a.exp_()
    b.exp_()
    a_total, b_total = a.sum(1), b.sum(1)
    a_mean, b_mean = expected(a, difference) / a_total, expected(b, difference) / b_total
    shift = a_total.log() - b_total.log()
    # A row's largest logit is 0 by now: its probability is 1 / Z.
    divergences = (a_mean - shift).clamp(min=0), (shift - b_mean).clamp(min=0)  # below 0 by rounding alone
    return Divergences(*divergences, a_top.int(), 1 / a_total, b_top.int(), 1 / b_total)


def _peak(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's largest logit, (n, 1), and its first place, (n,)."""
    peak = logits.amax(1, keepdim=True)
    return peak, logits.argmax(1)


def expected(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return Σ weight · value of each row, (n,), where a weight of 0 adds nothing, whatever its value."""
    sums = torch.linalg.vecdot(weights, values)
    if not bool(sums.isfinite().all()):  # a token that a model rules out: 0 times infinity, or infinity less infinity
        sums = torch.where(weights > 0, weights * values, 0.0).sum(1)
    return sums
