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
    """Return the k largest values of each row, in any order, and their places; as `topk`, in half the time on a CPU.

    The k-th largest of the maxima of blocks is no more than the k-th largest value, as k blocks have one that large: what is below it is
    not looked at.
    """
    n, width = x.shape
    if x.device.type != "cpu" or not n or width % _BLOCK or width // _BLOCK < 2 * k:
        return x.topk(k, dim=-1, sorted=False)
    maxima = x.view(n, _BLOCK, -1).amax(1)
    at = places(x >= maxima.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True))
    counts = torch.bincount(at // width, minlength=n)
    if int(counts.min()) < k:  # no comparison finds what is no number
        return x.topk(k, dim=-1, sorted=False)
    column = torch.arange(int(counts.max()))
    place = (counts.cumsum(0) - counts)[:, None] + column
    candidates = x.view(-1)[at][place.clamp(max=len(at) - 1)]
    values, chosen = candidates.masked_fill_(column >= counts[:, None], -torch.inf).topk(k, dim=-1, sorted=False)
    return values, at[place.gather(-1, chosen)] % width
