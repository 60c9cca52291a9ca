"""`traces data`: which data sets are known, and keeping them under the warehouse root. Imports no model library."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warehouse.cli.options import WarehouseOption
from warehouse.cli.output import ReportFormat
from warehouse.cli.terminal import table_console
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.data.dataset_spec import DatasetSpec

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Data sets that are known by name.")


@data_app.command("list")
def list_data(
    fmt: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to print the list.")] = ReportFormat.table,
    warehouse: WarehouseOption = None,
) -> None:
    """What is known: data sets with licence and splits, where they come from, and which splits are prepared.

    Example: `traces data list --format tsv`
    """
    from warehouse.storage import paths

    root = paths.find_root(warehouse)
    found = _described(root)
    if fmt is ReportFormat.json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    columns = list(found[0])
    rows = [[", ".join(v) if isinstance(v, list) else v for v in row.values()] for row in found]
    if fmt is ReportFormat.tsv:
        writer = csv.writer(sys.stdout, dialect="excel-tab", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    table_console(200).print(table)
    typer.echo("Any other of the hub: --data OWNER/NAME --text-column NAME. A file of your own: --text FILE.")


def _described(root: Path) -> list[dict[str, Any]]:
    from capture.data.registry import DATASETS, REPEATS
    from warehouse.storage import paths

    rows: list[dict[str, Any]] = []
    for known in DATASETS.values():
        there = paths.prepared_splits(root, known.name)
        rows.append(
            {
                "name": known.name,
                "about": known.about,
                "licence": known.licence,
                "splits": list(known.splits),
                "from": " ".join(filter(None, (known.hub_name, known.hub_config))),
                "prepared": [split for split in known.splits if split in there],
            }
        )
    made = {
        "name": REPEATS,
        "about": "random words, twice over",
        "licence": "",
        "splits": [],
        "from": "made on the spot",
    }
    return [*rows, made | {"prepared": []}]


@data_app.command("prepare")
def prepare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets, as `traces data list` names them.")],
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Only this split; may be given several times. All that are there if left out."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="A local copy in the original format, or a folder with one file a split."
        ),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Fetch data sets, or read local copies, and keep them under the warehouse root for `--data NAME`.

    What is already prepared is made anew, and replaced only once the new file is whole.

    Examples: `traces data prepare ud_ewt go_emotions csqa wikitext2`,
    `traces data prepare ud_ewt --from en_ewt-ud-dev.conllu`
    """
    from capture.data import prepared
    from capture.data.files import check_not_empty
    from capture.data.registry import find_dataset, split_reader
    from warehouse.storage import paths

    check_not_empty(from_=from_)
    found = [find_dataset(name) for name in dict.fromkeys(names)]
    if from_ is not None and len(found) != 1:
        raise UsageError("--from is a copy of one data set: name only that one.")
    root = paths.find_root(warehouse)
    wanted = [(known, part) for known in found for part in _splits(known, split or [], from_)]
    for data, part in wanted:
        rows, origin = split_reader(data, part, from_)
        path = paths.prepared_path(root, data.name, part)
        verb = "replaced" if path.is_file() else "prepared"
        start = time.monotonic()
        with _progress(f"{data.name} {part}") as report:
            counts = prepared.write(path, data, part, origin, rows, report)
        typer.echo(f"{data.name} {part}: {_summary(counts)}; {verb} in {time.monotonic() - start:.1f} s: {path}")


def _splits(known: DatasetSpec, asked: list[str], origin: str | None) -> list[str]:
    """The splits to prepare: those asked for, else those that are in the copy, else all. Raises UsageError."""
    from capture.data.files import printable_value, user_path

    path = user_path(origin) if origin is not None else None
    wanted = list(dict.fromkeys(known.resolve_split(s) for s in asked if s != "all"))
    if path is not None and path.is_dir():
        there = known.find_splits(path)
    elif path is not None and not wanted and path.exists():
        told = known.split_named_by(path)
        if told is None:
            raise UsageError(f"Say which split {printable_value(path)} is: --split {' or '.join(known.splits)}.")
        there = [told]
    else:
        there = list(known.splits)
    if path is not None and not path.is_dir() and len(wanted) > 1:
        raise UsageError(f"{printable_value(path)} is one file, of one split: give --split once, or a folder.")
    return wanted if wanted and "all" not in asked else there


def _summary(counts: Counter[str]) -> str:
    """`2,001 rows, 25,152 words`; for questions also how many have answers, for WikiText the rows of each kind."""
    from capture.data.dataset_spec import BLANK, HEADINGS, PARAGRAPHS

    names = ["rows", "words", "labels", "choices", "answers", PARAGRAPHS, HEADINGS, BLANK]
    return ", ".join(f"{counts[name]:,} {name}" for name in names if name == "rows" or counts[name])


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, on a terminal; nothing elsewhere."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.completed:,} rows"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda rows: bar.update(task, completed=rows)
