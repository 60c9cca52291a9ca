"""Data sets of the hub, through `datasets`. Code that comes with a data set is never run.

What goes wrong on the way ends in one line that names the remedy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import GenericAlias, UnionType
from typing import TYPE_CHECKING, Any

from capture.data.arrow import ROWS_AT_ONCE, plain_rows, error_reason
from capture.data.columns import Columns
from capture.data.example import Row, Source
from capture.data.files import printable_value
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import datasets

_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


def open_hub(name: str, config: str | None, split: str, text_column: str, label_column: str | None = None) -> Source:
    """Any data set of the hub by its name `owner/name`: one column is the text, which identifies the example, one may be its
    labels, and the others are its metadata. Raises UsageError where it cannot be had, or has no such configuration, split or
    column.
    """
    split, data = load_split(name, config, split, "For a local copy (.jsonl, .csv or .parquet): --text FILE")
    for column, option in ((text_column, "--text-column"), (label_column, "--label-column")):
        if column is not None and column not in data.column_names:
            raise NotFoundError("column", column, data.column_names, f"({name}) Name the column that it is: {option}.")
    columns = Columns(text_column, label_column, _label_names(data, label_column))
    where = f"{name}, {split}"

    def rows() -> Iterator[Row]:
        return columns.rows(
            (number, f"{where}, row {number}", fields) for number, fields in enumerate(hub_rows(data, where))
        )

    return Source(name, config, split, name, rows, reads=columns.reads, has_ids=False)


def _label_names(data: datasets.Dataset, column: str | None) -> Sequence[str] | None:
    """The names of a column's numbers, or of those in its lists, where it has them."""
    feature = data.features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None)


def load_split(name: str, config: str | None, split: str, remedy: str) -> tuple[str, datasets.Dataset]:
    """A split and the name it has there (`dev` and `validation` are each taken for the other where only that is there).

    `remedy` is what to do where the hub cannot be reached. Raises UsageError.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise UsageError("Reading from the hub needs datasets: pip install 'trace-warehouse[capture]'") from None

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        # Without `split=`, which would cut and add up what it is given: all splits are fetched either way.
        found = datasets.load_dataset(name, config)
    except (ValueError, RuntimeError) as e:
        raise _explain_refusal(name, config, e) from None
    except Exception as e:  # the hub's client raises its own, requests', httpx's and OS errors
        reason = str(e).strip().split("\n")[0]
        raise UsageError(
            f"The data set {name} cannot be fetched ({type(e).__name__}: {reason}). Check its name and the "
            f"network. {remedy}"
        ) from e
    there = split if split in found else _SAME_SPLIT.get(split, split)
    if there not in found:
        raise NotFoundError(f"split of {name}", split, found)
    return there, found[there]


def _explain_refusal(name: str, config: str | None, e: Exception) -> UsageError:
    """What `load_dataset` means by an error that is not the network's."""
    import datasets

    if "script" in str(e):
        return UsageError(
            f"{name} comes with Python code that reads it, which is never run. Save its rows as .jsonl or .parquet: "
            "--text FILE --text-column NAME"
        )
    try:
        configs = datasets.get_dataset_config_names(name)
    except Exception:  # the first error says more than one about looking for its reason
        configs = []
    if config is None and len(configs) > 1:
        return UsageError(f"{name} has several configurations: {', '.join(configs)}. Choose one: --config NAME")
    if config is not None and configs and config not in configs:
        return NotFoundError(f"configuration of {name}", config, configs)
    return UsageError(f"{name}: {' '.join(str(e).split())}")


ColumnType = type | UnionType | GenericAlias
"""What a column has to hold: `str`, `str | None`, `list[str]`, …"""


def hub_rows(data: datasets.Dataset, where: str, needed: Mapping[str, ColumnType] | None = None) -> Iterator[dict[str, Any]]:
    """The rows as plain Python values; class labels as their numbers, images and sounds undecoded. `where` names the data set
    in errors, which count rows from 0.

    Raises UsageError where a column of `needed` is not there or holds something else, and where a row cannot be read.
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
