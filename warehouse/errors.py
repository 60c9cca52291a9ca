"""Errors that a user can cause, which a command shows in one line: every message names the thing and the remedy.

`TracesError` ends a command with exit code 1 (the run or the data is at fault), `UsageError` with 2 (the call is).
Anything else that escapes is a defect of this code and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class TracesError(Exception):
    """The run or the data is at fault; its message is shown without a traceback."""

    exit_code = 1


class UsageError(TracesError):
    """The call is wrong: an option, an argument or a name."""

    exit_code = 2


class NotFoundError(UsageError):
    """Nothing has the name that was asked for; the message lists the nearest names."""

    def __init__(self, kind: str, name: object, known: Iterable[object], hint: str = "") -> None:
        names = [str(k) for k in known]
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        if near:
            tail = f"Did you mean {' or '.join(near)}?"
        elif names:
            tail = f"There is: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
        else:
            tail = "There is none yet."
        super().__init__(f"No {kind} '{name}'. {tail}{' ' + hint if hint else ''}")


class RunExistsError(UsageError):
    """A published run already has that name."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"Run '{run_id}' already exists (traces runs show {run_id}). "
            f"Choose another name, or delete it: traces runs rm {run_id}"
        )


class NewerSchemaError(TracesError):
    """A file was written by a newer version of this package."""

    def __init__(self, where: object, version: object, known: int) -> None:
        super().__init__(
            f"{where} has schema version {version}, and this trace-warehouse reads up to {known}. "
            "Upgrade it: pip install -U trace-warehouse"
        )


class StoreError(OSError):
    """An object store does not answer, or refuses: that says nothing of what lies there, which is no damage and not gone."""


class StoreRefusedError(StoreError, PermissionError):
    """An object store does not let these credentials do it."""


class LeftOutWarning(UserWarning):
    """A run or a vector table is damaged, and left out of the answer."""


class UncertainResultWarning(UserWarning):
    """Something makes a result less certain than it looks."""


class CorruptRunError(TracesError):
    """A file of a run is missing, cut short or altered."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as `without_number` has it, or the name of its type where it has no message."""
    return (without_number(error).strip() or type(error).__name__).splitlines()[0]


def without_number(error: BaseException) -> str:
    """Return an error's message without the number that the system gives it: `No space left on device: 'x'`."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error))


def printable(text: str) -> str:
    """Escape the control characters and halves of surrogate pairs in a text, but no line breaks and tabs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def on_one_line(text: str) -> str:
    """Escape all that `printable` escapes, and line breaks and tabs too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
