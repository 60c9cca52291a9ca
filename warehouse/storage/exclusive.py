"""One process at a time: by a lock file on this machine, and for a root in an object store by an object that its holder keeps renewing.

A process that dies lets go of its lock file at once. Of its object the others notice that nobody renews it any more, by their own
clocks.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from warehouse.errors import TracesError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath, ObjectPath

_RENEWED = 20.0
"""Seconds after which a holder renews its object."""
_DEAD = 90.0
"""Seconds after which a holder that has not renewed its object counts as dead."""
_LONGEST = 24 * 3600.0
"""Seconds that a process waits, at most."""


@contextlib.contextmanager
def exclusive(root: AnyPath, lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Do something that one process at a time may do to a warehouse.

    Args:
        root: The warehouse.
        lock: The lock file on this machine; its name is what is locked.
        waiting: Called where another process has it.

    Yields:
        Nothing.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(lock)
    try:
        held.acquire(blocking=False)
    except filelock.Timeout:
        waiting()
        held.acquire()
    try:
        with _lease(root, lock.name, waiting) if isinstance(root, ObjectPath) else contextlib.nullcontext():
            yield
    finally:
        held.release()


@contextlib.contextmanager
def _lease(root: ObjectPath, name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an object of a root, which no other process then can put.

    Raises:
        TracesError: Another holds it for ever.
    """
    place, mine = paths.writer_path(root, name), f"{platform.node()} {uuid.uuid4().hex}".encode()
    assert isinstance(place, ObjectPath)
    began = seen_at = time.monotonic()
    seen = None
    while not place.put_new(mine):
        now = time.monotonic()
        state = None
        with contextlib.suppress(FileNotFoundError):
            state = place.stat()
        if seen is None:
            waiting()
        if state != seen:
            seen, seen_at = state, now
        elif now - seen_at > _DEAD:
            place.unlink()
        if now - began > _LONGEST:
            raise TracesError(f"{place} is held by another process for a day. If that is dead, delete it.")
        time.sleep(0.2 if now - began < 5 else 2)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEWED):
            with contextlib.suppress(OSError):
                place.write_bytes(mine)

    thread = threading.Thread(target=renew, name=f"holds {name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        place.unlink()
