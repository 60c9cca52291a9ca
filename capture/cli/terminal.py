"""What the commands that run a model share on a terminal: notes, what is not installed, stopping without loss."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from warehouse.cli.terminal import note as note
from warehouse.errors import TracesError, UsageError


@contextmanager
def needs_capture_extra() -> Iterator[None]:
    """Raise UsageError with the command that installs it if the block needs a library that is not installed."""
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name and e.name.split(".")[0] in ("torch", "transformers", "datasets", "accelerate"):
            raise UsageError(f"Running models needs {e.name}: pip install 'trace-warehouse[capture]'") from None
        raise


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: what is complete is kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise TracesStopped("Stopped. What was complete is kept: run the same command again to go on.") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class TracesStopped(TracesError):
    """A user stopped a command."""

    exit_code = 130
