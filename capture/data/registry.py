"""All data sets by name: `open_data` opens a known data set, any data set of the hub, or a file of the user's.

Each data set has a file beside this one, and all yield the same `Example`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from capture.data import csqa, go_emotions, prepared, ud_ewt, wikitext
from capture.data.dataset_spec import DatasetSpec, ReadRows
from capture.data.evaluations.open_logs import find_logs, is_log, open_logs
from capture.data.example import Row, Source
from capture.data.files import check_not_empty, printable_value, user_path
from capture.data.hub import load_split, open_folder, open_hub
from capture.data.named_columns import NamedColumns
from capture.data.repeated_words import NAME as REPEATS
from capture.data.repeated_words import open_repeats
from capture.data.text import open_chats, open_table
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

DATASETS = {known.name: known for known in (ud_ewt.DATASET, go_emotions.DATASET, csqa.DATASET, *wikitext.DATASETS)}
DATASET_NAMES = (*DATASETS, REPEATS)

_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".eval")
_NONE_NAMED = NamedColumns()
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_data(
    data: str | None = None,
    *,
    text: str | None = None,
    split: str = "validation",
    origin: str | None = None,
    config: str | None = None,
    headings: bool = False,
    columns: NamedColumns = _NONE_NAMED,
    root: AnyPath | None = None,
) -> Source:
    """Open what `--data NAME [--split S] [--from FILE]`, `--data FILE|FOLDER` or `--text FILE` asks for.

    A known data set is read from `origin` where that names a local copy, else as it is prepared under `root`, else from the hub.

    Args:
        data: A known data set, `owner/name` for any data set of the hub, a folder with a data set, a file of chats, or a log of an
            evaluation or a folder of them; None with `text`.
        text: A file of texts, or `-` for standard input; None with `data`.
        split: The data set's split.
        origin: A local copy of the data set, in the original format.
        config: The configuration of a data set of the hub, or of a folder.
        headings: Read the headings of WikiText as well as its paragraphs.
        columns: What the user says of the columns.
        root: The warehouse root, under which prepared data is looked for.

    Returns:
        The source, which holds at least one text.

    Raises:
        UsageError: The options don't go together, the data cannot be read, or it holds no text.
        NotFoundError: There is no such data set.
    """
    check_not_empty(
        data=data,
        text=text,
        split=None if data == REPEATS else split,  # which has none
        from_=origin,
        config=config,
    )
    columns.check_not_empty()
    if (data is None) == (text is None):
        raise UsageError("Say what to read: either --data NAME or --text FILE (- for standard input).")
    if headings and data not in DATASETS:
        raise UsageError("--headings goes with --data wikitext2 or wikitext103.")
    logs = [] if data is None or data in DATASET_NAMES else _logs(data)
    kind = "texts" if data is None else "log" if logs else _kind(data, columns)
    named = str(data if text is None else text)
    _check_goes_with(kind, named, origin, config, columns)
    match kind:
        case "known":
            source = _open_dataset(DATASETS[named], split, origin, root, headings)
        case "repeats":
            source = open_repeats()
        case "log":
            source = open_logs(named, logs)
        case "folder":
            source = open_folder(user_path(named), named, config, split, columns.resolve("text"))
        case "chats":
            source = open_chats(named, columns.text is not None, columns.resolve("messages"))
        case "texts" | "questions":
            source = open_table(named, columns.resolve("text"))
        case "hub":
            source = open_hub(named, config, split, columns.resolve("text"))
        case _:
            raise NotFoundError(
                "data set",
                printable_value(named),
                DATASET_NAMES,
                "One of the hub is named OWNER/NAME. For a file of your own texts: --text FILE; of chats: --data FILE.jsonl.",
            )
    if next(source.read(), None) is None:
        raise UsageError(f"{source.origin} holds no text: there is nothing to capture.")
    if columns.id is not None:
        for _ in source.rows():  # an id that comes twice, however far apart, shows before a model is loaded
            pass
    return source


def _kind(data: str, columns: NamedColumns) -> str:
    """Return what `--data` names that is no log."""
    if data in DATASET_NAMES:
        return "repeats" if data == REPEATS else "known"
    path = user_path(data)
    if path.is_dir():
        return "folder"
    if path.suffix.lower() in _FILES or path.is_file():
        return "chats" if columns.choices is None else "questions"
    return "hub" if _HUB_NAME.fullmatch(data) else "unknown"


def _check_goes_with(kind: str, named: str, origin: str | None, config: str | None, columns: NamedColumns) -> None:
    """Raise UsageError where an option is given that is not for data of its kind."""
    if config is not None and kind not in ("folder", "hub"):
        raise UsageError(
            "--config goes with a data set of the hub by its own name, --data OWNER/NAME, or with a folder."
        )
    if columns.options and kind in ("known", "repeats", "log", "unknown"):
        raise UsageError(
            f"{columns.options[0][0]} goes with --text FILE, or with --data and a file, a folder, or a data set of the hub by its own "
            f"name, OWNER/NAME: {printable_value(named)} is none of them."
        )
    if origin is None or kind in ("known", "unknown"):
        return
    shown = printable_value(named)
    raise UsageError({
        "texts": "--from goes with --data; --text names its file itself.",
        "repeats": f"{REPEATS} is generated, so that it takes no --from.",
        "log": f"--from does not go with {shown}, which is a log of an evaluation.",
        "hub": f"--from is a copy of a known data set ({', '.join(DATASETS)}). For a file of {shown}: --text FILE",
    }.get(kind, "--from goes with a data set's name; a file or folder is named by --data itself."))  # fmt: skip


def _logs(data: str) -> list[Path]:
    """Return the logs of evaluations that `--data` names: a file, or all in a folder."""
    path = user_path(data)
    if path.is_dir():
        return find_logs(path)
    return [path] if path.suffix.lower() == ".eval" or (path.is_file() and is_log(path)) else []


def find_dataset(name: str) -> DatasetSpec:
    """Return a known data set by its name; raise NotFoundError where there is none of that name."""
    if name not in DATASETS:
        raise NotFoundError("data set", name, DATASETS)
    return DATASETS[name]


def split_reader(dataset: DatasetSpec, split: str, origin: str | None) -> tuple[ReadRows, str]:
    """Return how a split's rows are read from a local copy or the hub, prepared data left aside.

    Args:
        dataset: The data set.
        split: The split.
        origin: A local copy, in the original format; None: the hub.

    Returns:
        What reads the rows, and where they are read from.
    """
    if origin is not None:
        path = dataset.find_file(user_path(origin), split)
        return (lambda: dataset.read_file(path)), origin

    def rows() -> Iterator[Row]:
        usual = dataset.files[split][0]
        remedy = f"Or name a local copy: --from {usual} (kept by: traces data prepare {dataset.name} --from {usual})"
        return dataset.read_hub(load_split(dataset.hub_name, dataset.hub_config, split, remedy)[1])

    return rows, dataset.hub_name


def _open_dataset(known: DatasetSpec, split: str, origin: str | None, root: AnyPath | None, headings: bool) -> Source:
    split = known.resolve_split(split)
    path = None if origin or root is None else paths.prepared_path(root, known.name, split)
    if path is not None and path.exists():
        return known.to_source(lambda: prepared.read(path, known, split), split, str(path), headings)
    rows, where = split_reader(known, split, origin)
    return known.to_source(rows, split, where, headings)
