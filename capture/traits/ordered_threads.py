"""Work on many items in parallel threads, with results in the items' order: how judges are asked.

A window of items ahead of the awaited one keeps a slow result from holding up the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import TypeVar

_WINDOW = 4
"""Items ahead of the one awaited, as a multiple of the workers."""

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Apply `work` to every item in parallel, and yield the results in the items' order.

    Args:
        work: Called in one of the threads.
        items: Taken one at a time, at most `_WINDOW` times the workers ahead.
        workers: Number of threads. They are daemons, so that a process which is to end does not wait for a server.

    Yields:
        The results; an error is raised in the place of its item's result.
    """
    if workers == 1:
        yield from map(work, items)
        return
    tasks: queue.SimpleQueue[tuple[Future[R], T] | None] = queue.SimpleQueue()

    def serve() -> None:
        while (task := tasks.get()) is not None:
            future, item = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work(item))
            except BaseException as e:  # raised where the result is taken
                future.set_exception(e)

    for n in range(workers):
        threading.Thread(target=serve, name=f"judging {n}", daemon=True).start()
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(ahead) == _WINDOW * workers:
                yield ahead.popleft().result()
            future: Future[R] = Future()
            ahead.append(future)
            tasks.put((future, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        for _ in range(workers):
            tasks.put(None)
