"""The file that a picture is written to: checked before anything is computed, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.catalog.statements import check_target
from warehouse.plots.formats import check_format, check_matplotlib
from warehouse.storage.files import temporary_beside
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_picture(target: Path, root: AnyPath) -> None:
    """Check that a picture can be drawn, and written to a file of that name and place; raises UsageError.

    Args:
        target: The file.
        root: The warehouse, which it must not be in.
    """
    check_format(target)
    check_target(target, root)
    check_matplotlib()


def save(picture: Figure, target: Path) -> None:
    """Write a picture to a file, in the format of its ending."""
    temporary = temporary_beside(target)
    try:
        picture.savefig(temporary, format=check_format(target))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
