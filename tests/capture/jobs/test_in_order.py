"""Work in threads, whose results come in the order of the items."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from capture.jobs.in_order import in_order
from capture.model.torch_threads import torch_in_threads


def test_results_come_in_order_and_few_items_are_taken_before() -> None:
    """The first item is done only once the second has begun, so that two are worked on at once; no more are taken than can be."""
    taken: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        if i == 0:
            assert second.wait(60)
        elif i == 1:
            second.set()
        return i * i

    for n, result in enumerate(in_order(work, items(), 2)):
        assert result == n * n
        assert len(taken) <= n + 3


def test_what_is_raised_comes_in_the_place_of_its_result() -> None:
    got: list[int] = []
    with pytest.raises(ZeroDivisionError):
        got.extend(in_order(lambda i: 6 // i, [3, 2, 0, 1]))
    assert got == [2, 3]


def test_torch_has_its_threads_again() -> None:
    before = torch.get_num_threads()
    with torch_in_threads(torch.device("cpu")) as ours:
        assert (torch.get_num_threads(), ours) == (1, before)
    with pytest.raises(KeyError), torch_in_threads(torch.device("cpu")):
        raise KeyError
    assert torch.get_num_threads() == before
    with torch_in_threads(torch.device("meta")) as ours:
        assert (torch.get_num_threads(), ours) == (before, 1)
