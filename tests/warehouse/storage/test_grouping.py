"""Groups hold everything in order, and are as large as they may be."""

from __future__ import annotations

import pytest

from warehouse.storage.grouping import group_by_size


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([9], [[9]]),
        ([2, 3, 4], [[2, 3], [4]]),
        ([1, 9, 1, 4], [[1], [9], [1, 4]]),
        ([5, 0, 0, 1], [[5, 0, 0], [1]]),
    ],
)
def test_a_group_is_full_before_the_next_begins(sizes: list[int], groups: list[list[int]]) -> None:
    assert list(group_by_size(sizes, lambda n: n, 5)) == groups


def test_items_that_do_not_join_are_apart() -> None:
    assert list(group_by_size([1, 2, 4, 5, 6], lambda _: 1, 2, lambda a, b: a + 1 == b)) == [[1, 2], [4, 5], [6]]
