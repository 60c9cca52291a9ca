"""CommonsenseQA (Talmor et al. 2019): common-sense questions with five choices each. Licence: MIT.

Source: JSON lines, in the shape of the original release or of the hub, or the hub's `tau/commonsense_qa`. An example's text is
its question; it holds the five choices, the right one where the split says it, and as metadata the question's concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.dataset_spec import DatasetSpec
from capture.data.example import Choice, Row
from capture.data.files import json_lines, line_location, printable_value
from capture.data.hub import hub_rows
from warehouse.errors import UsageError

if TYPE_CHECKING:
    import datasets

N_CHOICES = 5
_HUB_COLUMNS = {"id": str, "question": str, "question_concept": str, "choices": dict, "answerKey": str | None}


def _file(path: Path) -> Iterator[Row]:
    seen: dict[str, int] = {}
    for number, fields in json_lines(path):
        where = line_location(path, number)
        row = _row(_hub_shape(fields, where), where)
        if seen.setdefault(row.source_id, number) != number:
            raise UsageError(
                f"{where}: the question {printable_value(row.source_id, 60)} is already on line {seen[row.source_id]}."
            )
        yield row


def _hub_shape(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Lay out the original release's nested question as the hub does; leave the hub's own shape as it is."""
    question = fields.get("question")
    if not isinstance(question, dict):
        return fields
    choices = _field(question, "choices", list, where)
    if not all(isinstance(c, dict) for c in choices):
        raise UsageError(f"{where}: a choice is not an object with a label and a text.")
    return {
        "id": fields.get("id"),
        "question": question.get("stem"),
        "question_concept": question.get("question_concept"),
        "choices": {name: [c.get(name) for c in choices] for name in ("label", "text")},
        "answerKey": fields.get("answerKey"),
    }


def _hub(data: datasets.Dataset) -> Iterator[Row]:
    for number, fields in enumerate(hub_rows(data, DATASET.hub_name, _HUB_COLUMNS)):
        yield _row(fields, f"{DATASET.hub_name}, row {number}")


def _row(fields: dict[str, Any], where: str) -> Row:
    question = _field(fields, "question", str, where)
    listed = _field(fields, "choices", dict, where)
    letters, texts = (_field(listed, name, list, where) for name in ("label", "text"))
    if not all(isinstance(x, str) for x in (*letters, *texts)):
        raise UsageError(f"{where}: the label or the text of a choice is missing or not text.")
    if len(letters) != N_CHOICES or len(texts) != N_CHOICES:
        raise UsageError(f"{where} has {len(texts)} choices with {len(letters)} labels, not {N_CHOICES}.")
    if len(set(letters)) != N_CHOICES:
        raise UsageError(f"{where}: two choices have the same label ({printable_value(', '.join(letters), 60)}).")
    key = fields.get("answerKey") or None
    if key is not None and key not in letters:
        raise UsageError(
            f"{where}: the key '{printable_value(key, 20)}' is not among the choices ({printable_value(', '.join(letters), 60)})."
        )
    return Row(
        _field(fields, "id", str, where),
        question,
        {"question_concept": _field(fields, "question_concept", str, where)},
        choices=tuple(Choice(*c) for c in zip(letters, texts, strict=True)),
        answer=None if key is None else letters.index(key),
    )


def _field(fields: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if fields.get(name) is None:
        raise UsageError(f"{where} has no '{name}'.")
    if not isinstance(fields[name], kind):
        raise UsageError(f"{where}: '{name}' holds {type(fields[name]).__name__}, not {kind.__name__}.")
    return fields[name]


DATASET = DatasetSpec(
    name="csqa",
    dataset="csqa",
    config=None,
    about="common-sense questions with five choices",
    licence="MIT",
    hub_name="tau/commonsense_qa",
    hub_config=None,
    files={
        "train": ("train_rand_split.jsonl", "train.jsonl"),
        "validation": ("dev_rand_split.jsonl", "dev.jsonl", "validation.jsonl"),
        "test": ("test_rand_split_no_answers.jsonl", "test.jsonl"),
    },
    read_file=_file,
    read_hub=_hub,
    n_choices=N_CHOICES,
)
