"""What the commands that run a model share on a terminal: notes, a progress bar, stopping without loss."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from warehouse.cli.terminal import note
from warehouse.errors import TracesError, UsageError

if TYPE_CHECKING:
    from capture.jobs.job import Progress
    from warehouse.storage.derived_progress import DerivedProgress


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


@contextmanager
def progress(limit: int | None) -> Iterator[Callable[[Progress | DerivedProgress], None]]:
    """Show a bar on a terminal, and a line every ten seconds elsewhere; on standard error.

    Args:
        limit: How many examples there are; None: unknown.

    Yields:
        A function to call with the progress so far.
    """
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("examples, {task.fields[rate]}"),
        bars.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    start = printed_at = time.monotonic()
    resuming_noted = False
    with bar:
        task = bar.add_task("capturing", total=limit, rate="")

        def report(p: Progress | DerivedProgress) -> None:
            nonlocal printed_at, resuming_noted
            new = p.tokens - p.resumed_tokens
            rate = f"{new / max(time.monotonic() - start, 1e-9):,.0f} tokens/s"
            bar.update(task, completed=p.begun, description=p.run_id, rate=rate)
            if p.resumed_tokens and new and not resuming_noted:
                resuming_noted = True
                console.print(f"continuing after {p.resumed_tokens:,} tokens")
            if not console.is_terminal and time.monotonic() - printed_at > 10:
                printed_at = time.monotonic()
                note(f"{p.run_id}: {p.begun:,} examples, {p.tokens:,} tokens, {rate}")

        yield report
