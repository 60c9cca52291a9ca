"""torch's own threads, and ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_in_threads(device: torch.device) -> Iterator[int]:
    """Have torch work in one thread within each of ours.

    Ours share out whole pieces of work, and what is not torch's too.

    Args:
        device: What torch computes on.

    Yields:
        How many threads use the machine: as many as torch had, or one on a GPU.
    """
    before = torch.get_num_threads()
    if device.type != "cpu":
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
