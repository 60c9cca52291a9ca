"""`traces data`: which data sets are known, and keeping them under the warehouse root. Imports no model library."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.data_options import FromOption
from capture.cli.listing import show_rows
from capture.cli.values import split_list
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import ReportFormatOption, WarehouseOption
from warehouse.cli.output import ReportFormat
from warehouse.cli.terminal import note
from warehouse.errors import TracesError, UsageError, on_one_line
from warehouse.progress import ProgressBar
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.data.dataset_spec import DatasetSpec

data_app = App(no_args_is_help=True, help="List the data sets that are known by name, and prepare them.")

ALL = "all"
"""Stands for every known data set that can be prepared."""


@data_app.command("list")
def list_data(fmt: ReportFormatOption = ReportFormat.table, warehouse: WarehouseOption = None) -> None:
    """List the known data sets with licence and splits, where they come from, and which splits are prepared.

    Examples:
        traces data list --format tsv
    """
    from warehouse.storage import paths

    show_rows(_describe(paths.find_root(warehouse)), fmt)
    if fmt is ReportFormat.table:
        typer.echo(
            "Any other data set of the hub: --data OWNER/NAME --text-column NAME. A file of your own: --text FILE."
        )


def _describe(root: AnyPath) -> list[dict[str, Any]]:
    """Return a row for each known data set."""
    from capture.data.registry import DATASETS, REPEATS
    from warehouse.storage import paths

    rows: list[dict[str, Any]] = []
    for known in DATASETS.values():
        prepared = paths.prepared_splits(root, known.name)
        rows.append(
            {
                "name": known.name,
                "about": known.about,
                "licence": known.licence,
                "splits": list(known.splits),
                "from": " ".join(filter(None, (known.hub_name, known.hub_config))),
                "prepared": [split for split in known.splits if split in prepared],
            }
        )
    generated = {
        "name": REPEATS,
        "about": "random words, twice over",
        "licence": "",
        "splits": [],
        "from": "made on the spot",
        "prepared": [],
    }
    return [*rows, generated]


@data_app.command("prepare")
def prepare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Data sets, as `traces data list` names them, or `all` of them."),
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="A,B,…",
            help="Only these splits; by default all that the source has.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    from_: FromOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Fetch data sets, or read local copies, and keep them under the warehouse root for `--data NAME`.

    A split that is prepared already is prepared again, and replaced only once the new file is complete. `all` goes on after a
    data set that cannot be had, and names those at the end, with exit code 1.

    Examples:
        traces data prepare ud_ewt go_emotions csqa wikitext2
        traces data prepare ud_ewt --from en_ewt-ud-dev.conllu
        traces data prepare all

    Raises:
        UsageError: `--from` goes with one data set.
        TracesError: Some of `all` could not be prepared.
    """
    from capture.data.files import check_not_empty
    from capture.data.registry import DATASETS, find_dataset
    from warehouse.storage import paths

    check_not_empty(from_=from_)
    splits = [*split_list(",".join(split or []))]
    root = paths.find_root(warehouse)
    if ALL not in names:
        datasets = [find_dataset(name) for name in dict.fromkeys(names)]
        if from_ is not None and len(datasets) != 1:
            raise UsageError("--from is a copy of one data set: name only that one.")
        for dataset, part in [(d, part) for d in datasets for part in _splits(d, splits, from_)]:
            _prepare_split(root, dataset, part, from_)
        return
    if from_ is not None:
        raise UsageError("--from is a copy of one data set: name it instead of 'all'.")
    failed: dict[str, str] = {}
    for dataset in DATASETS.values():
        try:
            for part in _splits(dataset, splits, None):
                _prepare_split(root, dataset, part, None)
        except (TracesError, OSError) as e:
            failed[dataset.name] = on_one_line(str(e))
            note(f"{dataset.name}: not prepared")
    if failed:
        reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise TracesError(f"{len(failed)} of {len(DATASETS)} data sets could not be prepared. {reasons}")


def _prepare_split(root: AnyPath, dataset: DatasetSpec, split: str, origin: str | None) -> None:
    """Write one split under the warehouse root, and print a line about it."""
    from capture.data import prepared
    from capture.data.registry import split_reader
    from warehouse.storage import paths

    rows, source = split_reader(dataset, split, origin)
    path = paths.prepared_path(root, dataset.name, split)
    verb = "replaced" if path.is_file() else "prepared"
    start = time.monotonic()
    with ProgressBar("rows", say=note) as bar:
        counts = prepared.write(
            path, dataset, split, source, rows, lambda n: bar.show(n, label=f"{dataset.name} {split}")
        )
    typer.echo(f"{dataset.name} {split}: {_summary(counts)}; {verb} in {time.monotonic() - start:.1f} s: {path}")


def _splits(known: DatasetSpec, wanted: list[str], origin: str | None) -> list[str]:
    """Return the splits to prepare: those that are wanted, else those in the copy, else all.

    Raises:
        UsageError: The copy is one file, and it is not clear which split, or several are wanted.
    """
    from capture.data.files import printable_value, user_path

    path = user_path(origin) if origin is not None else None
    named = list(dict.fromkeys(known.resolve_split(s) for s in wanted if s != "all"))
    if path is not None and path.is_dir():
        available = known.find_splits(path)
    elif path is not None and not named and path.exists():
        split = known.split_named_by(path)
        if split is None:
            raise UsageError(f"Say which split {printable_value(path)} is: --split {' or '.join(known.splits)}.")
        available = [split]
    else:
        available = list(known.splits)
    if path is not None and not path.is_dir() and len(named) > 1:
        raise UsageError(f"{printable_value(path)} is one file, of one split: name one with --split, or a folder.")
    return named if named and "all" not in wanted else available


def _summary(counts: Counter[str]) -> str:
    """Return `2,001 rows, 25,152 words`; for questions also how many have answers, for WikiText the rows of each kind."""
    from capture.data.dataset_spec import BLANK, HEADINGS, PARAGRAPHS

    names = ["rows", "words", "labels", "choices", "answers", PARAGRAPHS, HEADINGS, BLANK]
    return ", ".join(f"{counts[name]:,} {name}" for name in names if name == "rows" or counts[name])
