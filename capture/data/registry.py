"""Data sets: one file each, yielding `Example`s one by one; `open_data` is the way to all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from capture.data import csqa, go_emotions, prepared, ud_ewt, wikitext
from capture.data.dataset_spec import DatasetSpec, ReadRows
from capture.data.example import Row, Source
from capture.data.files import check_not_empty, printable_value, user_path
from capture.data.hub import load_split, open_hub
from capture.data.repeated_words import NAME as REPEATS
from capture.data.repeated_words import open_repeats
from capture.data.text import open_text
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths

DATASETS = {known.name: known for known in (ud_ewt.DATASET, go_emotions.DATASET, csqa.DATASET, *wikitext.DATASETS)}
DATASET_NAMES = (*DATASETS, REPEATS)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_data(
    data: str | None,
    text: str | None,
    split: str,
    origin: str | None,
    text_column: str,
    root: Path | None = None,
    config: str | None = None,
    headings: bool = False,
    label_column: str | None = None,
) -> Source:
    """What `--data NAME [--split S] [--from FILE]` or `--text FILE` asks for.

    A known data set is read from `origin` where that names a local copy, else as it is prepared under `root`, else from
    the hub; `owner/name` is any data set of the hub. Raises UsageError where that cannot be, or holds no text.
    """
    check_not_empty(
        data=data,
        text=text,
        split=None if data == REPEATS else split,  # which has none
        from_=origin,
        text_column=text_column,
        config=config,
        label_column=label_column,
    )
    if (data is None) == (text is None):
        raise UsageError("Say what to read: either --data NAME or --text FILE (- for standard input).")
    if config is not None and not (data and _HUB_NAME.fullmatch(data)):
        raise UsageError("--config goes with a data set of the hub by its own name: --data OWNER/NAME.")
    if headings and data not in DATASETS:
        raise UsageError("--headings goes with --data wikitext2 or wikitext103.")
    if label_column is not None and text is None and not (data and _HUB_NAME.fullmatch(data)):
        raise UsageError(
            "--label-column goes with --text FILE, or a data set of the hub by its own name: --data OWNER/NAME."
        )
    if label_column == text_column:
        raise UsageError(f"--label-column {printable_value(label_column)} is the column of the text: name another.")
    if text is not None:
        if origin is not None:
            raise UsageError("--from goes with --data; --text names its file itself.")
        source = open_text(text, text_column, label_column)
    elif data == REPEATS:
        if origin is not None:
            raise UsageError(f"{REPEATS} is made on the spot: it takes no --from.")
        source = open_repeats()
    elif data in DATASETS:
        source = _open_dataset(DATASETS[data], split, origin, root, headings)
    elif data is not None and _HUB_NAME.fullmatch(data):
        if origin is not None:
            raise UsageError(
                f"--from is a copy of a known data set ({', '.join(DATASETS)}). For a file of {data}: --text FILE"
            )
        source = open_hub(data, config, split, text_column, label_column)
    else:
        raise NotFoundError(
            "data set", printable_value(data), DATASET_NAMES, "One of the hub is named OWNER/NAME. For a file of your own: --text FILE."
        )
    if next(source.read(), None) is None:
        raise UsageError(f"{source.origin} holds no text: there is nothing to capture.")
    return source


def find_dataset(name: str) -> DatasetSpec:
    """Raises NotFoundError for a name that is none of `KNOWN`."""
    if name not in DATASETS:
        raise NotFoundError("data set", name, DATASETS)
    return DATASETS[name]


def split_reader(dataset: DatasetSpec, split: str, origin: str | None) -> tuple[ReadRows, str]:
    """How a split's rows are read anew, from a local copy or the hub, and where that is. Raises UsageError, also while
    reading.
    """
    if origin is not None:
        path = dataset.find_file(user_path(origin), split)
        return (lambda: dataset.read_file(path)), origin

    def rows() -> Iterator[Row]:
        usual = dataset.files[split][0]
        remedy = f"Or name a local copy: --from {usual} (kept by: traces data prepare {dataset.name} --from {usual})"
        return dataset.read_hub(load_split(dataset.hub_name, dataset.hub_config, split, remedy)[1])

    return rows, dataset.hub_name


def _open_dataset(known: DatasetSpec, split: str, origin: str | None, root: Path | None, headings: bool) -> Source:
    split = known.resolve_split(split)
    path = None if origin or root is None else paths.prepared_path(root, known.name, split)
    if path is not None and path.exists():
        return known.to_source(lambda: prepared.read(path, known, split), split, str(path), headings)
    rows, where = split_reader(known, split, origin)
    return known.to_source(rows, split, where, headings)
