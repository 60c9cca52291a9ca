"""What a picture can be written as, and whether one can be drawn here: known without matplotlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from warehouse.errors import UsageError

_FORMATS = ("png", "svg", "pdf")


def check_format(name: object, format: str | None = None) -> str:
    """Return the format of a picture.

    Args:
        name: The name of its file.
        format: The format that was asked for; None: the one of the file's ending.

    Raises:
        UsageError: It is none that pictures are written in.
    """
    found = (format or Path(str(name)).suffix.removeprefix(".")).lower()
    if found not in _FORMATS:
        raise UsageError(f"{name}: its ending names no format of pictures. End it in .png, .svg or .pdf.")
    return found


def check_matplotlib() -> None:
    """Check that matplotlib is installed; raises UsageError."""
    if find_spec("matplotlib") is None:
        raise UsageError("A picture needs matplotlib: pip install 'trace-warehouse[plot]'")
