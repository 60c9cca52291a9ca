"""The options that several commands share: where the warehouse is, and how an answer is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from warehouse.cli.option_groups import Panel
from warehouse.cli.output import Format, ReportFormat
from warehouse.errors import UsageError

WarehouseOption = Annotated[
    str | None,
    typer.Option(
        "--warehouse",
        "-w",
        metavar="DIR",
        help="The warehouse root, a folder or `s3://BUCKET/FOLDER`; default `$TRACES_HOME`, else `./runs`.",
        rich_help_panel=Panel.GENERAL,
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="How to print the answer.", rich_help_panel=Panel.GENERAL)
]
ReportFormatOption = Annotated[
    ReportFormat, typer.Option("--format", "-f", help="How to print the report.", rich_help_panel=Panel.GENERAL)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.", rich_help_panel=Panel.GENERAL)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go ahead without asking.", rich_help_panel=Panel.GENERAL)]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, as `traces runs` lists it.")]

LayersOption = Annotated[
    str, typer.Option(metavar="A,B,…", help="`all`, or some, as in `0,15,29`.", rich_help_panel=Panel.READ)
]


def parse_layers(text: str) -> str | tuple[int, ...]:
    """Return the layers of `0,15`; `all` as it is.

    Raises:
        UsageError: The text is not a list of layers.
    """
    try:
        return text if text == "all" else tuple(int(n) for n in text.split(","))
    except ValueError:
        raise UsageError(f"--layers {text}: write all, or layers as in 0,15.") from None


def run_option(default: str) -> Any:
    """Return the option `--run`, which names the run that a command writes; `default` says which name it has without."""
    return typer.Option(
        "--run",
        metavar="NAME",
        help=f"The new run's name; by default {default}.",
        show_default=False,
        rich_help_panel=Panel.WRITTEN,
    )


def dry_run_option(help: str) -> Any:
    """Return the option `--dry-run`; `help` says what the command then does instead."""
    return typer.Option("--dry-run", help=help, rich_help_panel=Panel.GENERAL)


DeleteDryRunOption = Annotated[bool, dry_run_option("Only say what would be deleted.")]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How and where an answer is written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file: .csv, .tsv, .json, .parquet or .txt.",
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None
    warehouse: WarehouseOption = None
    fmt: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="How to print the answer; by default as the ending of `--output` says, else as a table.",
            show_default=False,
            rich_help_panel=Panel.GENERAL,
        ),
    ] = None
