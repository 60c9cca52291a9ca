"""The command `traces console export`: one HTML file that shows examples of a run without a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warehouse.cli.option_groups import Panel
from warehouse.cli.options import RunArgument, WarehouseOption
from warehouse.cli.terminal import say
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from warehouse.console.export_data import Head

_HEAD = re.compile(r"(\d+):(\d+)")


def export(
    run: RunArgument,
    example: Annotated[
        str,
        typer.Option(metavar="ID,…", help="The examples, by id or the beginning of one.", rich_help_panel=Panel.READ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file.", rich_help_panel=Panel.WRITTEN)],
    seq: Annotated[
        int, typer.Option(min=0, help="Their sequence: the chunk, choice or sample.", rich_help_panel=Panel.READ)
    ] = 0,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER:HEAD,…",
            help="The heads whose attention is shown, as in `20:3,23:6`; by default two each with the largest induction "
            "mass and previous-token mass.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.", rich_help_panel=Panel.WRITTEN)
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write one HTML file that shows examples without a server and without a network: for papers and colleagues.

    It has the text with what was predicted, the newest logit lens where the run has one, and the attention of some heads, at most
    256 by 256 cells each. Any browser opens it. Whoever has the file has the texts.

    Examples:
        traces console export wt2 --example 0de7ea --out lobster.html
        traces console export ioi --example 3f2a,77b0 --heads 20:3,23:6 --out names.html

    Raises:
        UsageError: What is asked for is not there, or the file is.
    """
    from warehouse.catalog.statements import check_target
    from warehouse.console.export import export as page
    from warehouse.storage.files import write_atomically
    from warehouse.warehouse import Warehouse

    chosen = None if heads is None else _parse_heads(heads)
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file.")
    if out.exists() and not force:
        raise UsageError(f"{out} is there already: name another file, or add --force.")
    with Warehouse(warehouse) as wh:
        check_target(out, wh.root)
        content = page(wh, run, [e for e in example.split(",") if e], seq=seq, heads=chosen).encode()
    write_atomically(out, content)
    say(f"{out}: {len(content) / 1e6:.1f} MB")


def _parse_heads(text: str) -> list[Head]:
    """Return the heads of `20:3,23:6`.

    Raises:
        UsageError: The text is not a list of heads.
    """
    from warehouse.console.export_data import Head

    found = [_HEAD.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise UsageError(f"--heads {text}: write layers and heads, as in 20:3,23:6.")
    return [Head(int(match[1]), int(match[2])) for match in found if match]
