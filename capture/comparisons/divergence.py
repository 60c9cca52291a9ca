"""How far two models' distributions of the next token are apart, from their logits.

KL(p || q) = Σ p (ln p - ln q) (Kullback and Leibler 1951), over the whole vocabulary, in nats and in float32. It is summed as
Σ p·d - (ln Z_p - ln Z_q) with d the difference of the logits, so that two equal rows give exactly 0. Beside the matrix products that make
logits, all of this is passes over memory: it goes over pieces that stay in a processor's cache, in as few passes as can be, and
overwrites the logits. Numpy finds a row's largest value several times as fast as torch does, in one thread: so each
thread has rows of its own. Z and Σ p·d are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from capture.model.torch_threads import torch_in_threads

_PIECE_BYTES = 3 << 20
"""Logits of one model that are compared together: with the other's and their difference they stay in the cache."""
_LEAST, _MOST = -50.0, 60.0
"""A row whose largest logit is between these is exponentiated as it is: no sum overflows, and what underflows is too small to matter."""


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
        lowest id first among equals. Probabilities of these are NaN where a logit is NaN or infinity.
    """
    with torch_in_threads(a.device) as threads, ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(_compare_rows, a.chunk(threads), b.chunk(threads)))
    return _joined(parts)


def _compare_rows(a: torch.Tensor, b: torch.Tensor) -> Divergences:
    """Do what `compare_logits` does, in one thread."""
    rows = max(1, min(len(a), _PIECE_BYTES // (a.shape[1] * 4)))
    factors = torch.ones((rows, 3, a.shape[1] // 2), device=a.device)  # halves of a difference, and ones
    return _joined([_compare_piece(a[i : i + rows], b[i : i + rows], factors) for i in range(0, len(a), rows)])


def _joined(parts: Sequence[Divergences]) -> Divergences:
    return Divergences(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _compare_piece(a: torch.Tensor, b: torch.Tensor, factors: torch.Tensor) -> Divergences:
    factors = factors[: len(a)]
    (a_top, a_peak), (b_top, b_peak) = _peak(a), _peak(b)
    if not bool(((a_peak > _LEAST) & (a_peak < _MOST) & (b_peak > _LEAST) & (b_peak < _MOST)).all()):
        a -= a_peak
        b -= b_peak
        a_peak, b_peak = torch.zeros_like(a_peak), torch.zeros_like(b_peak)
    half = a.shape[1] // 2
    torch.sub(*(x[:, : 2 * half].unflatten(1, (2, half)) for x in (a, b)), out=factors[:, :2])
    rest = a[:, 2 * half :] - b[:, 2 * half :]
    (a_total, a_mean), (b_total, b_mean) = (_moments(x.exp_(), factors, rest) for x in (a, b))
    shift = a_total.log() - b_total.log()
    divergences = (a_mean - shift).clamp(min=0), (shift - b_mean).clamp(min=0)  # below 0 by rounding alone
    a_prob, b_prob = (peak[:, 0].exp() / total for peak, total in ((a_peak, a_total), (b_peak, b_total)))
    return Divergences(*divergences, a_top.int(), a_prob, b_top.int(), b_prob)


def _peak(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first place of each row's largest logit, (n,), and that logit, (n, 1)."""
    top = logits.argmax(1) if logits.device.type != "cpu" else torch.from_numpy(np.argmax(logits.numpy(), axis=1))
    return top, logits.gather(1, top[:, None])


def _moments(weights: torch.Tensor, factors: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of weights and the mean of differences under them, (n,) each.

    Two halves of the weights are multiplied with two halves of the differences and with ones, of which what belongs together is used:
    so they are read once.

    Args:
        weights: (n, V), above 0.
        factors: (n, 3, V // 2): the differences by halves, and ones.
        rest: (n, V % 2): what the halves leave.

    Returns:
        Σ w, and Σ w·d / Σ w, to which a weight of 0 adds nothing, whatever its difference.
    """
    half, last = factors.shape[2], weights[:, 2 * factors.shape[2] :]
    products = torch.bmm(weights[:, : 2 * half].unflatten(1, (2, half)), factors.transpose(1, 2))
    total = products[:, :, 2].sum(1) + last.sum(1)
    sums = products[:, 0, 0] + products[:, 1, 1] + (last * rest).sum(1)
    if not bool(products.isfinite().all() & sums.isfinite().all()):
        # A token that a model rules out: 0 times infinity, or infinity less infinity.
        total = weights.sum(1)
        differences = torch.cat([factors[:, :2].flatten(1), rest], 1)
        sums = torch.where(weights > 0, weights * differences, 0.0).sum(1)
    return total, sums / total
