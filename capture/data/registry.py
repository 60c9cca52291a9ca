"""All data sets by name: `open_data` opens a known data set, any data set of the hub, or a file of the user's.

Each data set has a file beside this one, and all yield the same `Example`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from capture.data import csqa, go_emotions, prepared, ud_ewt, wikitext
from capture.data.columns import Columns
from capture.data.dataset_spec import DatasetSpec, ReadRows
from capture.data.evaluations.open_logs import find_logs, is_log, open_logs
from capture.data.example import Row, Source
from capture.data.files import check_not_empty, printable_value, user_path
from capture.data.hub import load_split, open_folder, open_hub
from capture.data.repeated_words import NAME as REPEATS
from capture.data.repeated_words import open_repeats
from capture.data.text import open_chats, open_table
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

DATASETS = {known.name: known for known in (ud_ewt.DATASET, go_emotions.DATASET, csqa.DATASET, *wikitext.DATASETS)}
DATASET_NAMES = (*DATASETS, REPEATS)

_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".eval")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_data(
    data: str | None,
    text: str | None,
    split: str,
    origin: str | None,
    text_column: str | None,
    root: AnyPath | None = None,
    config: str | None = None,
    headings: bool = False,
    label_column: str | None = None,
    id_column: str | None = None,
    *,
    score_columns: Sequence[str] = (),
    response_column: str | None = None,
    choices_column: str | None = None,
    answer_column: str | None = None,
) -> Source:
    """Open what `--data NAME [--split S] [--from FILE]`, `--data FILE|FOLDER` or `--text FILE` asks for.

    A known data set is read from `origin` where that names a local copy, else as it is prepared under `root`, else from the hub.

    Args:
        data: A known data set, `owner/name` for any data set of the hub, a folder with a data set, a file of chats, or a log of an
            evaluation or a folder of them; None with `text`.
        text: A file of texts, or `-` for standard input; None with `data`.
        split: The data set's split.
        origin: A local copy of the data set, in the original format.
        text_column: The column that is the text; None: `text`, or of chats `messages`.
        root: The warehouse root, under which prepared data is looked for.
        config: The configuration of a data set of the hub.
        headings: Read the headings of WikiText as well as its paragraphs.
        label_column: The column that holds labels.
        id_column: The column that tells the texts apart; None: the texts do.
        score_columns: Columns with scores of the texts.
        response_column: The column with a response to each text.
        choices_column: The column with the choices, where the texts are questions.
        answer_column: The column that says which of them is right.

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
        text_column=text_column,
        config=config,
        label_column=label_column,
        id_column=id_column,
        response_column=response_column,
        choices_column=choices_column,
        answer_column=answer_column,
        **{f"score_column{'_' * n}": column for n, column in enumerate(score_columns)},
    )
    if (data is None) == (text is None):
        raise UsageError("Say what to read: either --data NAME or --text FILE (- for standard input).")
    if config is not None and not (data and (_HUB_NAME.fullmatch(data) or user_path(data).is_dir())):
        raise UsageError(
            "--config goes with a data set of the hub by its own name, --data OWNER/NAME, or with a folder."
        )
    if headings and data not in DATASETS:
        raise UsageError("--headings goes with --data wikitext2 or wikitext103.")
    logs = [] if data is None or data in DATASET_NAMES else _logs(data)
    known = data in DATASET_NAMES
    folder = data is not None and not known and not logs and user_path(data).is_dir()
    in_file = data is not None and not known and not logs and not folder and _is_file(data)
    hub = data is not None and not known and not logs and not folder and not in_file and _HUB_NAME.fullmatch(data)
    chats = in_file and choices_column is None
    texts_in = text_column or ("messages" if chats else "text")
    columns = Columns(
        texts_in, label_column, id=id_column, response=response_column, scores=tuple(score_columns), choices=choices_column,
        answer=answer_column,
    )  # fmt: skip
    named = {"--label-column": label_column, "--id-column": id_column, "--response-column": response_column,
             "--choices-column": choices_column, "--answer-column": answer_column}  # fmt: skip
    options = [(option, c) for option, c in named.items() if c is not None]
    options += [("--score-column", c) for c in score_columns]
    if options and text is None and not (in_file or folder or hub):
        raise UsageError(
            f"{options[0][0]} goes with --text FILE, or with --data and a file, a folder, or a data set of the hub by its own name: "
            "OWNER/NAME."
        )
    taken = {texts_in: "the text's column"}
    for option, column in options:
        if column in taken:
            raise UsageError(f"{option} {printable_value(column)} is {taken[column]}: name another.")
        taken[column] = {"--label-column": "the labels' column"}.get(option, f"what {option} names already")
    if text is not None:
        if origin is not None:
            raise UsageError("--from goes with --data; --text names its file itself.")
        source = open_table(text, columns)
    elif data is not None and logs:
        for option, given in {"--from": origin, "--text-column": text_column}.items():
            if given is not None:
                raise UsageError(f"{option} does not go with {printable_value(data)}, which is a log of an evaluation.")
        source = open_logs(data, logs)
    elif data is not None and chats:
        if origin is not None:
            raise UsageError("--from goes with a data set's name; a file of chats is named by --data itself.")
        source = open_chats(data, text_column is not None, columns)
    elif data is not None and (folder or in_file):
        if origin is not None:
            raise UsageError("--from goes with a data set's name; a file or folder is named by --data itself.")
        source = open_folder(user_path(data), data, config, split, columns) if folder else open_table(data, columns)
    elif data == REPEATS:
        if origin is not None:
            raise UsageError(f"{REPEATS} is generated, so that it takes no --from.")
        source = open_repeats()
    elif data in DATASETS:
        source = _open_dataset(DATASETS[data], split, origin, root, headings)
    elif data is not None and hub:
        if origin is not None:
            raise UsageError(
                f"--from is a copy of a known data set ({', '.join(DATASETS)}). For a file of {data}: --text FILE"
            )
        source = open_hub(data, config, split, columns)
    else:
        raise NotFoundError(
            "data set",
            printable_value(data),
            DATASET_NAMES,
            "One of the hub is named OWNER/NAME. For a file of your own texts: --text FILE; of chats: --data FILE.jsonl.",
        )
    if next(source.read(), None) is None:
        raise UsageError(f"{source.origin} holds no text: there is nothing to capture.")
    if id_column is not None:
        for _ in source.rows():  # an id that comes twice, however far apart, shows before a model is loaded
            pass
    return source


def _is_file(data: str) -> bool:
    """Whether `--data` names a file: by its ending, or since there is one of that name."""
    path = user_path(data)
    return path.suffix.lower() in _FILES or path.is_file()


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
