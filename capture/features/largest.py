"""The largest values of each row, and where a mask is true, faster on a CPU than torch finds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 32
"""Values whose largest is found at once, where the largest of all are looked for."""


def places(mask: Tensor) -> Tensor:
    """Return the places where a mask is true, in order."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # in half the time that torch takes
    return mask.view(-1).nonzero().view(-1)


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row, and their places, the first place first; as `topk`, faster on a CPU.

    The k-th largest of the maxima of blocks is no more than the k-th largest value, as k blocks have one that large: what is below it is
    not looked at. Of values that are as large as the k-th, the first are taken.

    Args:
        x: (n, width).
        k: 1 to width.

    Returns:
        Values and places, (n, k) each.
    """
    n, width = x.shape
    if x.device.type != "cpu" or not n or width % _BLOCK or width // _BLOCK < 2 * k:
        return _by_topk(x, k)
    maxima = x.view(n, _BLOCK, -1).amax(1)
    at = places(x >= maxima.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True))
    row = at.numpy() // width
    counts = np.bincount(row, minlength=n)
    if counts.min() < k:  # no comparison finds what is no number
        return _by_topk(x, k)
    found = x.view(-1).index_select(0, at)
    chosen = torch.from_numpy(_chosen(found.float().numpy(), row, counts, k))
    return found[chosen].view(n, k), at[chosen].view(n, k) % width


def _by_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    at = x.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
    return x.gather(-1, at), at


def _chosen(values: np.ndarray, row: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return which of some values are the k largest of their row, where every row has k at least, and its own come one after the other."""
    by_row = np.full((len(counts), counts.max()), -np.inf, values.dtype)
    by_row[np.arange(by_row.shape[1]) < counts[:, None]] = values
    least = np.partition(by_row, -k, axis=1)[:, -k]
    chosen: np.ndarray = values >= least[row]
    if np.count_nonzero(chosen) > len(counts) * k:
        tied = values == least[row]
        more = k - np.bincount(row[values > least[row]], minlength=len(counts))
        before = np.cumsum(tied)
        first = np.cumsum(counts) - counts
        chosen &= ~tied | (before - (before - tied)[first][row] <= more[row])
    return chosen
