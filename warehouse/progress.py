"""The progress bar that all long work shows: in a terminal and in a notebook, and nowhere else.

`ProgressBar` draws on standard error through tqdm. Where nobody looks on, it draws nothing; a command can have it say a line every
ten seconds there, for a log.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

_LINE_SECONDS = 10


def has_screen() -> bool:
    """Return whether somebody can see a bar: standard error is a terminal, or the code runs in a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def import_tqdm() -> Any:
    """Import tqdm without its warning in a notebook that has no ipywidgets: the bar is text there.

    Returns:
        The class of the bar that fits a terminal or a notebook.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm


class ProgressBar:
    """A context manager that shows how far some work has come."""

    def __init__(self, unit: str, total: int | None = None, say: Callable[[str], None] | None = None) -> None:
        """Prepare a bar, which appears on entering.

        Args:
            unit: What is counted, in the plural: `examples`.
            total: How many there are; None: unknown.
            say: Receives lines that must not be missed, and, where there is no screen, a line on the progress every ten seconds;
                None: such lines appear above the bar, and nowhere without a screen.
        """
        self._unit, self._total, self._say = unit, total, say
        self._screen = has_screen()
        self._bar: Any = None
        self._said_at = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if self._screen:
            self._bar = import_tqdm()(total=self._total, unit=f" {self._unit}", leave=False, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int | None = None, label: str = "", detail: str = "") -> None:
        """Show how far the work has come.

        Args:
            done: How many are done.
            total: How many there are, where that is known by now.
            label: What is being done, such as the run's name.
            detail: What else there is to say, such as the speed.
        """
        self._total = total or self._total
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.set_description_str(label, refresh=False)
            self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._say is not None and time.monotonic() - self._said_at > _LINE_SECONDS:
            self._said_at = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            name = f"{label}: " if label else ""
            self._say(", ".join(filter(None, (f"{name}{done:,}{of} {self._unit}", detail))))

    def say(self, text: str) -> None:
        """Say a line that must not be missed; the bar moves out of its way."""
        if self._bar is not None:
            self._bar.clear()
        if self._say is not None:
            self._say(text)
        elif self._screen:
            print(text, file=sys.stderr)
