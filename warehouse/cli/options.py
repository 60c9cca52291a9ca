"""The options that several commands share: where the warehouse is, and how an answer is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from warehouse.cli.output import Format

WarehouseOption = Annotated[
    Path | None,
    typer.Option("--warehouse", "-w", metavar="DIR", help="The warehouse root; default `$TRACES_HOME`, else `./runs`."),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the answer.")]
AnswerFormatOption = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="How to print the answer; as FILE ends, else a table.", show_default=False),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write there: .csv, .tsv, .json, .parquet or .txt."),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, as `traces runs` lists it.")]
