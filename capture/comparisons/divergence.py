"""How far two models' distributions of the next token are apart, from their logits.

KL(p || q) = Σ p (ln p - ln q) (Kullback and Leibler 1951), over the whole vocabulary, in nats and in float32. It is summed as
Σ p·d - (ln Z_p - ln Z_q) with d the difference of the logits, so that two equal rows give exactly 0. Beside the matrix products that make
logits, all of this is passes over memory: it goes over pieces that stay in a processor's cache, in as few passes as can be, with rows of
its own in each thread, as Numpy finds a row's largest value several times as fast as torch does. Z and Σ p·d are one product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from capture.model.torch_threads import torch_in_threads

_PIECE_BYTES = 3 << 19
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
        a: Logits of the first model, (n, V) float32; may be overwritten.
        b: Those of the other.

    Returns:
        The divergences, in nats, infinite where a model rules out a token that the other allows, and the most probable tokens, the
        lowest id first among equals. Probabilities of these are NaN where a logit is NaN or infinity.
    """
    with torch_in_threads(a.device) as threads, ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(_compare_rows, a.chunk(threads), b.chunk(threads)))
    return _joined(parts)


def _compare_rows(a: torch.Tensor, b: torch.Tensor) -> Divergences:
    """Compare rows as `compare_logits` says, in one thread."""
    n, half = len(a), a.shape[1] // 2
    rows = max(1, min(n, _PIECE_BYTES // (a.shape[1] * 4))) if a.device.type == "cpu" else n
    weights, factors = a.new_empty((rows, 4, half)), a.new_ones((rows, 3, half))
    products = a.new_empty((n, 4, 3))
    tops, peaks = a.new_empty((2, n, 1), dtype=torch.int64), a.new_empty((2, n, 1))
    for first in range(0, n, rows):
        here = slice(first, min(first + rows, n))
        count = here.stop - first
        for x, top, peak in ((a[here], tops[0, here], peaks[0, here]), (b[here], tops[1, here], peaks[1, here])):
            _first_largest(x, top)
            torch.gather(x, 1, top, out=peak)
        least, most = peaks[:, here].aminmax()
        if not (least.item() > _LEAST and most.item() < _MOST):
            for x, peak in zip((a[here], b[here]), peaks[:, here], strict=True):
                x -= peak
                peak.zero_()
        halves, other_halves = (x[here, : 2 * half].unflatten(1, (2, half)) for x in (a, b))
        torch.sub(halves, other_halves, out=factors[:count, :2])
        torch.exp(halves, out=weights[:count, :2])
        torch.exp(other_halves, out=weights[:count, 2:])
        # Halves of both models' weights by halves of differences and ones, of which what belongs together is used: each is read once.
        torch.bmm(weights[:count], factors[:count].transpose(1, 2), out=products[here])
        if not math.isfinite(products[here].sum().item()):
            _leave_out_excluded(weights[:count], factors[:count], products[here])
    last = torch.stack([a[:, 2 * half :], b[:, 2 * half :]])
    last_weight = last.exp()
    totals = products[:, :, 2].unflatten(1, (2, 2)).sum(2).T + last_weight.sum(2)
    sums = torch.stack([products[:, 0, 0] + products[:, 1, 1], products[:, 2, 0] + products[:, 3, 1]])
    sums += torch.where(last_weight > 0, last_weight * (last[0] - last[1]), 0.0).sum(2)
    mean, other_mean = sums / totals
    shift = totals[0].log() - totals[1].log()
    divergences = (mean - shift).clamp(min=0), (shift - other_mean).clamp(min=0)  # below 0 by rounding alone
    probabilities = peaks[:, :, 0].exp() / totals
    return Divergences(*divergences, tops[0, :, 0].int(), probabilities[0], tops[1, :, 0].int(), probabilities[1])


def _joined(parts: Sequence[Divergences]) -> Divergences:
    return Divergences(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _first_largest(x: torch.Tensor, out: torch.Tensor) -> None:
    """Write the first place of each row's largest value, (n, 1)."""
    if x.device.type == "cpu":
        np.argmax(x.numpy(), axis=1, keepdims=True, out=out.numpy())
    else:
        torch.argmax(x, 1, keepdim=True, out=out)


def _leave_out_excluded(weights: torch.Tensor, factors: torch.Tensor, products: torch.Tensor) -> None:
    """Make products anew, to which a token that a model rules out adds nothing: 0 times infinity, or infinity less infinity."""
    products[:, :, 2] = weights.sum(2)
    differences = torch.cat([factors[:, :2], factors[:, :2]], 1)
    summed = torch.where(weights > 0, weights * differences, 0.0).sum(2)
    products[:, 0, 0], products[:, 1, 1], products[:, 2, 0], products[:, 3, 1] = summed.unbind(1)
