"""What a worker process knows: which part of the run it does, and how it tells the driver of its progress.

In any other process there is no assignment: `assigned_part` is empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_TELL_SECONDS = 0.1
"""Progress is told at most this often."""

Tell = Callable[[dict[str, Any]], None]
"""Hands an event, JSON values, to the driver."""

_part = ""
_tell: Tell | None = None
_told_at = -_TELL_SECONDS


def begin(part: str, tell: Tell) -> None:
    """Make this process the worker of the part `i/n`."""
    global _part, _tell
    _part, _tell = part, tell


def assigned_part() -> str:
    """Return the part `i/n` that this process does as a worker; empty: it is no worker."""
    return _part


def tell_progress(run_id: str, done: int, tokens: int = 0, resumed_tokens: int = 0) -> None:
    """Tell the driver how far the part has come.

    Args:
        run_id: The name of the part's run.
        done: What is done of it, in what the driver's bar counts.
        tokens: Tokens of these.
        resumed_tokens: Tokens that an earlier process had done.
    """
    global _told_at
    if _tell is not None and time.monotonic() - _told_at >= _TELL_SECONDS:
        _told_at = time.monotonic()
        _tell({"event": "progress", "run": run_id, "done": done, "tokens": tokens - resumed_tokens})
