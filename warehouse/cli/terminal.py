"""What commands print for people: names and texts from outside can't steer the terminal.

What is for other programs (CSV, JSON, Parquet) is written as it is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from warehouse.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """Print a line on standard output."""
    typer.echo(printable(text))


def note(text: str) -> None:
    """Print a line on standard error."""
    typer.echo(printable(text), err=True)


def table_console(width: int) -> Console:
    """Return a console for tables, `width` columns wide if there is no terminal; no text is taken for markup."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False, highlight=False)
