"""What a user can cause and is told in one line: every message names the thing and the remedy.

`TracesError` ends a command with exit code 1 (the run or the data is at fault), `UsageError` with 2 (the call is).
Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TracesError(Exception):
    exit_code = 1


class UsageError(TracesError):
    exit_code = 2


class NotFoundError(UsageError):
    """A name that is not there, with the nearest ones that are."""

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
    """A published run has that name."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"Run '{run_id}' is already there (traces runs show {run_id}). "
            f"Choose another --run, or delete it: traces runs rm {run_id}"
        )


class NewerSchemaError(TracesError):
    """A run written by a newer version than this one."""

    def __init__(self, where: object, found: object, known: int) -> None:
        super().__init__(
            f"{where} has schema version {found}, and this trace-warehouse reads up to {known}. "
            "Upgrade it: pip install -U trace-warehouse"
        )


class LeftOutWarning(UserWarning):
    """A run or a vector table that is damaged, and left out of what is asked."""


class UncertainResultWarning(UserWarning):
    """What makes a result less certain than it looks."""


class CorruptRunError(TracesError):
    """A file of a run that is missing, cut short or altered."""


def printable(text: str) -> str:
    """Returns the text with its control characters and halves of surrogate pairs as escapes; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def on_one_line(text: str) -> str:
    """The same, with line breaks and tabs as escapes too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
