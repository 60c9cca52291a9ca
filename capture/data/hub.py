"""Data sets of the hub, through `datasets`. Code that comes with a data set is never run.

What goes wrong on the way ends in one line that names the remedy.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from capture.data.example import Row, Source
from warehouse.errors import NotFound, UsageError

if TYPE_CHECKING:
    import datasets

_ROWS_AT_ONCE = 1024
_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


def open_hub(name: str, config: str | None, split: str, text_column: str) -> Source:
    """Any data set of the hub by its name `owner/name`: one column is the text, which identifies the example, and the
    others are its metadata. Raises UsageError where it cannot be had, or has no such configuration, split or column.
    """
    split, data = load(name, config, split, "For a local copy (.jsonl or .parquet): --text FILE")
    if text_column not in data.column_names:
        raise NotFound("column", text_column, data.column_names, f"({name}) Name the text's column: --text-column.")

    def rows() -> Iterator[Row]:
        for number, fields in enumerate(hub_rows(data)):
            text = fields.pop(text_column)
            if not isinstance(text, str):
                raise UsageError(
                    f"{name}, {split}, row {number}: column '{text_column}' holds {type(text).__name__}, not text."
                )
            yield Row(str(number), text, fields)

    return Source(name, config, split, name, rows, has_ids=False)


def load(name: str, config: str | None, split: str, remedy: str) -> tuple[str, datasets.Dataset]:
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
        raise _refused(name, config, e) from None
    except Exception as e:  # the hub's client raises its own, requests', httpx's and OS errors
        reason = str(e).strip().split("\n")[0]
        raise UsageError(
            f"The data set {name} cannot be fetched ({type(e).__name__}: {reason}). Check its name and the "
            f"network. {remedy}"
        ) from e
    there = split if split in found else _SAME_SPLIT.get(split, split)
    if there not in found:
        raise NotFound(f"split of {name}", split, found)
    return there, found[there]


def _refused(name: str, config: str | None, e: Exception) -> UsageError:
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
        return NotFound(f"configuration of {name}", config, configs)
    return UsageError(f"{name}: {' '.join(str(e).split())}")


def hub_rows(data: datasets.Dataset, needed: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows as plain Python values; class labels as their numbers, images and sounds undecoded.

    Raises UsageError where a column of `needed` is not there.
    """
    missing = [c for c in needed if c not in data.column_names]
    if missing:
        raise UsageError(
            f"The hub's copy has no column {' or '.join(missing)}, but {', '.join(data.column_names)}: its format has "
            "changed. Name a copy in the original format: --from FILE"
        )
    for batch in data.with_format("arrow").iter(_ROWS_AT_ONCE):
        yield from batch.to_pylist()
