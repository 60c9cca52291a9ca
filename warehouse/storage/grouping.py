"""Group items that are read in order, such as sequences or slices of a shard, into portions of a limited size.

What is derived from a run is written a portion at a time: heads, projections, the lens, rows of vector tables, and captures themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def group_by_size(
    items: Iterable[Item],
    size: Callable[[Item], int],
    most: int,
    joins: Callable[[Item, Item], bool] = lambda before, item: True,
) -> Iterator[list[Item]]:
    """Group consecutive items.

    Args:
        items: The items, in order.
        size: Measures an item.
        most: The largest size of a group; an item that is larger is a group of its own.
        joins: Tells whether an item may be in the group of the one before it.

    Yields:
        The items of each group; none is empty.
    """
    group: list[Item] = []
    total = 0
    for item in items:
        n = size(item)
        if group and (total + n > most or not joins(group[-1], item)):
            yield group
            group, total = [], 0
        group.append(item)
        total += n
    if group:
        yield group
