"""Work on items that come one after the other, several at a time in threads, with the results in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int = 2) -> Iterator[Result]:
    """Yield what some work makes of each item, in their order.

    Args:
        work: What lets go of the interpreter for most of its time.
        items: The items. Few are taken before they are worked on, so that few results wait.
        threads: How many are worked on at a time.

    Yields:
        The results. What `work` raises is raised where its result would have come.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
