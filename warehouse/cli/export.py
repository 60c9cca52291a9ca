"""`traces export`: a run in the formats of other tools, one command a format. `warehouse.exports` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import RunArgument, WarehouseOption
from warehouse.cli.terminal import note, say

export_app = App(no_args_is_help=True, help="Write a run in the format of another tool.")


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Which examples are exported."""

    example: Annotated[
        str | None,
        typer.Option(
            metavar="ID,…",
            help="The examples, by id or the beginning of one; by default all.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            help="Only examples for which this holds: a condition on the columns of the table examples, as in `idx < 100`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None

    def to_arguments(self) -> dict[str, Any]:
        """Return the arguments that `warehouse.exports` takes for these."""
        return {"examples": _items(self.example), "where": self.where}


ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace an export that is there.", rich_help_panel=Panel.WRITTEN)
]
OutFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder.", rich_help_panel=Panel.WRITTEN)
]
OutFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file.", rich_help_panel=Panel.WRITTEN)
]


@export_app.command("viewer")
@with_groups()
def viewer(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="What is written: `attention`, `lens`, `projections`; by default all that the run has.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write JSON documents that token-level viewers read: attention, a logit lens, projections on traits; one a sequence.

    Attention needs q and k or attn in the run, the lens a `traces lens` of it, projections a `traces trait project`: the newest ones are
    read. `index.json` lists the documents. Attention grows with the square of a text, times layers and heads: choose a few long ones.

    Examples:
        traces export viewer demo -o demo-json
        traces export viewer demo --documents attention --where "idx < 10" -o ten
    """
    from warehouse import exports

    with _opened(warehouse, "examples") as (wh, report):
        counts = exports.viewer(
            wh, run, output, kinds=_items(documents), **chosen.to_arguments(), force=force, report=report
        )
    say(f"{output}: {', '.join(f'{n:,} of {kind}' for kind, n in counts.items())}")


@contextmanager
def _opened(warehouse: str | None, unit: str) -> Iterator[tuple[Any, Callable[[int, int], None]]]:
    """Open the warehouse, and give it with what shows the progress."""
    from warehouse.progress import ProgressBar
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh, ProgressBar(unit, say=note) as bar:
        yield wh, lambda done, total: bar.show(done, total)


def _items(text: str | None) -> list[str]:
    """Return the items of a list with commas."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]
