"""Reads data sets of the hub through `datasets`. Code that comes with a data set is never run.

Every way in which that can fail ends in one line that names the remedy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import GenericAlias, UnionType
from typing import TYPE_CHECKING, Any, NoReturn

from capture.data.arrow import ROWS_AT_ONCE, error_reason, plain_rows
from capture.data.columns import CHAT_COLUMNS, Columns
from capture.data.example import Row, Source
from capture.data.files import printable_value
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import datasets

_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


def open_hub(name: str, config: str | None, split: str, columns: Columns) -> Source:
    """Open any data set of the hub.

    Args:
        name: Its name, `owner/name`.
        config: Its configuration, where it has several.
        split: Its split.
        columns: The columns that are read. Where none holds ids, the text identifies the example.

    Returns:
        The source of its examples.

    Raises:
        NotFoundError: It has no such column.
    """
    split, data = load_split(name, config, split, "For a local copy (.jsonl, .csv or .parquet): --text FILE")
    rows, columns = _rows(data, name, split, columns)
    has_ids = columns.id is not None
    return Source(name, config, split, name, rows, columns.reads, has_ids, chats=columns.chats)


def open_folder(path: Path, origin: str, config: str | None, split: str, columns: Columns) -> Source:
    """Open a data set in a folder: Parquet, JSON, CSV or text files whose names say the split, or what `save_to_disk` wrote.

    Args:
        path: The folder.
        origin: The folder, as the user named it.
        config: Its configuration, where its README defines several.
        split: Its split.
        columns: The columns that are read. Where none holds ids, the text identifies the example, wherever the folder is.

    Returns:
        The source of its examples.

    Raises:
        NotFoundError: It has no such column.
    """
    split, data = load_split(str(path), config, split, "A single file: --text FILE", local=True)
    name = path.resolve().name
    rows, columns = _rows(data, name, split, columns)
    has_ids = columns.id is not None
    return Source(name, config, split, origin, rows, columns.reads, has_ids, own=True, chats=columns.chats)


def _rows(
    data: datasets.Dataset, name: str, split: str, columns: Columns
) -> tuple[Callable[[], Iterator[Row]], Columns]:
    """Return what reads a split's rows, and the columns with the names of the labels."""
    if columns.text == "text" and "text" not in data.column_names:  # as a file of chats is read
        columns = replace(columns, text=next((c for c in CHAT_COLUMNS if c in data.column_names), "text"))
    wanted = [("--text-column", columns.text), ("--label-column", columns.label), ("--id-column", columns.id)]
    for option, column in [*wanted, *columns.named]:
        if column is not None and column not in data.column_names:
            raise NotFoundError("column", column, data.column_names, f"({name}) Name the column that it is: {option}.")
    chats = columns.text in CHAT_COLUMNS or isinstance(data[0][columns.text] if len(data) else None, list)
    columns = replace(columns, label_names=_label_names(data, columns.label), chats=chats)
    where = f"{name}, {split}"

    def rows() -> Iterator[Row]:
        return columns.rows(
            (number, f"{where}, row {number}", fields) for number, fields in enumerate(hub_rows(data, where))
        )

    return rows, columns


def _label_names(data: datasets.Dataset, column: str | None) -> Sequence[str] | None:
    """Return the names of the numbers in a column, or in its lists; None where they have none."""
    feature = data.features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None)


def load_split(
    name: str, config: str | None, split: str, remedy: str, local: bool = False
) -> tuple[str, datasets.Dataset]:
    """Load a split from the hub, or from a folder; `dev` and `validation` stand for each other where there is only one of them.

    Args:
        name: The data set's name.
        config: Its configuration, where it has several.
        split: The split.
        remedy: What to do where the data cannot be had, for the message.
        local: The name is that of a folder.

    Returns:
        The split's name on the hub, and its rows.

    Raises:
        UsageError: The data set cannot be fetched, or `datasets` is not installed.
        NotFoundError: It has no such split or configuration.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise UsageError("Reading from the hub needs datasets: pip install 'trace-warehouse[capture]'") from None

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        # Without `split=`, which would slice and add splits by its own syntax: all splits are fetched either way.
        splits = _from_disk(name) if local else None
        splits = datasets.load_dataset(name, config) if splits is None else splits
    except (ValueError, RuntimeError) as e:
        _refuse(name, config, e)
    except Exception as e:  # the hub's client raises its own, requests', httpx's and OS errors
        reason = str(e).strip().split("\n")[0]
        if local:
            raise UsageError(
                f"{printable_value(name)} cannot be read as a data set ({type(e).__name__}: {printable_value(e.__cause__ or reason, 200)})."
                f" {remedy}"
            ) from e
        raise UsageError(
            f"The data set {name} cannot be fetched ({type(e).__name__}: {reason}). Check its name and the "
            f"network. {remedy}"
        ) from e
    hub_split = split if split in splits else _SAME_SPLIT.get(split, split)
    if hub_split not in splits:
        raise NotFoundError(f"split of {name}", split, splits)
    return hub_split, splits[hub_split]


def _from_disk(folder: str) -> Mapping[str, datasets.Dataset] | None:
    """Return the splits of a folder that `save_to_disk` wrote, one without a split as `train`; None for another folder."""
    import datasets

    path = Path(folder)
    if not (path / "dataset_dict.json").is_file() and not (path / "state.json").is_file():
        return None
    found = datasets.load_from_disk(folder)
    return found if isinstance(found, datasets.DatasetDict) else {"train": found}


def _refuse(name: str, config: str | None, e: Exception) -> NoReturn:
    """Raise a UsageError that says what `load_dataset` means by an error that is not the network's."""
    import datasets

    if "script" in str(e):
        raise UsageError(
            f"{name} comes with Python code that reads it, which is never run. Save its rows as .jsonl or .parquet: "
            "--text FILE --text-column NAME"
        ) from None
    try:
        configs = datasets.get_dataset_config_names(name)
    except Exception:  # the first error says more than one about looking for its reason
        configs = []
    if config is None and len(configs) > 1:
        raise UsageError(
            f"{name} has several configurations: {', '.join(configs)}. Choose one: --config NAME"
        ) from None
    if config is not None and configs and config not in configs:
        raise NotFoundError(f"configuration of {name}", config, configs) from None
    raise UsageError(f"{name}: {' '.join(str(e).split())}") from None


ColumnType = type | UnionType | GenericAlias
"""What a column must hold: `str`, `str | None`, `list[str]`, …"""


def hub_rows(
    data: datasets.Dataset, where: str, needed: Mapping[str, ColumnType] | None = None
) -> Iterator[dict[str, Any]]:
    """Read the rows of a data set of the hub as plain Python values.

    Args:
        data: The split.
        where: What messages call it; they count rows from 0.
        needed: Column → what it must hold.

    Yields:
        Each row's fields by name; class labels as their numbers, images and sounds undecoded.

    Raises:
        UsageError: A column of `needed` is missing or holds something else, or a row cannot be read.
    """
    import pyarrow as pa

    needed = needed or {}
    missing = [c for c in needed if c not in data.column_names]
    if missing:
        raise UsageError(
            f"The hub's copy has no column {' or '.join(missing)}, but {', '.join(data.column_names)}: its format has "
            "changed. Name a copy in the original format: --from FILE"
        )
    number = 0
    try:
        for batch in data.with_format("arrow").iter(ROWS_AT_ONCE):
            for fields in plain_rows(batch, where, number):
                for name, kind in needed.items():
                    if not _fits(fields[name], kind):
                        raise UsageError(
                            f"{where}, row {number}: column '{name}' holds {printable_value(repr(fields[name]), 40)}, not "
                            f"{kind.__name__ if isinstance(kind, type) else kind}: the hub's copy has changed. Name a copy in "
                            "the original format: --from FILE"
                        )
                yield fields
                number += 1
    except (pa.ArrowException, OSError) as e:
        raise UsageError(
            f"{where} cannot be read after row {number}: {error_reason(e)} Delete its copy in the cache of `datasets` to fetch it again."
        ) from None


def _fits(value: Any, kind: ColumnType) -> bool:
    if isinstance(kind, GenericAlias):
        return isinstance(value, list) and all(isinstance(x, kind.__args__[0]) for x in value)
    return isinstance(value, kind)
