"""GoEmotions (Demszky et al. 2020): Reddit comments with one or several of 27 emotions, or neutral. Licence: Apache 2.0.

Source: the release's TSV (text, comma-separated label ids, comment id; no header), or the `simplified` form of the hub's
`google-research-datasets/go_emotions`. An example's text is a comment; it holds the comment's labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from capture.data.dataset_spec import DatasetSpec
from capture.data.example import Label, Row
from capture.data.files import file_lines, line_location, printable_value
from capture.data.hub import hub_rows
from warehouse.errors import UsageError

if TYPE_CHECKING:
    import datasets

# A label's id is its place here.
NAMES = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip

_IDS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def _file(path: Path) -> Iterator[Row]:
    seen: dict[str, int] = {}
    for number, line in file_lines(path):
        if not line.strip():
            continue
        where = line_location(path, number)
        fields = line.split("\t")
        if len(fields) != 3:
            raise UsageError(
                f"{where} has {len(fields)} fields, not 3 (text, label ids, comment id) separated by tabs."
            )
        text, ids, comment = fields
        if not _IDS.fullmatch(ids):
            raise UsageError(
                f"{where}: '{printable_value(ids, 40)}' is not label ids separated by commas, such as 4,27."
            )
        if not comment.strip():
            raise UsageError(f"{where} has no comment id.")
        if seen.setdefault(comment, number) != number:
            raise UsageError(f"{where}: the comment {printable_value(comment, 60)} is already on line {seen[comment]}.")
        yield _row(_unquoted(text), [int(i) for i in ids.split(",")], comment, where)


def _unquoted(text: str) -> str:
    """Undo the release's quoting: it writes a text with quotation marks as CSV does, in quotation marks and its own doubled.

    This is done line by line, and only where all of the text fits: a reader of CSV would take a lone mark for the start of many
    lines.

    Returns:
        The text without the quoting.
    """
    return text[1:-1].replace('""', '"') if _QUOTED.fullmatch(text) else text


def _hub(data: datasets.Dataset) -> Iterator[Row]:
    columns = {"text": str, "labels": list[int], "id": str}
    for number, fields in enumerate(hub_rows(data, DATASET.hub_name, columns)):
        yield _row(fields["text"], fields["labels"], fields["id"], f"{DATASET.hub_name}, row {number}")


def _row(text: str, ids: Iterable[int], comment: str, where: str) -> Row:
    labels: dict[int, Label] = {}
    for i in ids:
        if not 0 <= i < len(NAMES):
            raise UsageError(f"{where}: there is no label {i}: they go from 0 to {len(NAMES) - 1}.")
        if i in labels:
            raise UsageError(f"{where} has the label {i} ({NAMES[i]}) twice.")
        labels[i] = Label(i, NAMES[i])
    return Row(comment, text, labels=tuple(labels.values()))


DATASET = DatasetSpec(
    name="go_emotions",
    dataset="go_emotions",
    config=None,
    about="comments with one or several of 27 emotions, or neutral",
    licence="Apache 2.0",
    hub_name="google-research-datasets/go_emotions",
    hub_config="simplified",
    files={
        "train": ("train.tsv",),
        "validation": ("dev.tsv", "validation.tsv"),
        "test": ("test.tsv",),
    },
    read_file=_file,
    read_hub=_hub,
    labels=NAMES,
)
