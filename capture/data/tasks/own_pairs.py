"""Reads pairs of prompts from a file of the user's own: .csv, .tsv, .jsonl or .parquet.

Its columns are `clean`, `corrupted`, and either `answer` and `wrong`, texts as they stand after the prompt, or `label`, the last
two digits of a year that the year to come is to be greater than. `template` and `corruption` are read where they are there; all
columns are kept as the example's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capture.data.files import check_readable, printable_value, user_path
from capture.data.tasks import greater_than
from capture.data.tasks.task import Pair, Task, answers
from capture.data.text import file_table
from warehouse.errors import NotFoundError, UsageError

_KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def open_own_pairs(origin: str) -> Task:
    """Open a file of pairs.

    Args:
        origin: The file.

    Returns:
        The task: greater_than where the file has labels, else one of the file's name.

    Raises:
        UsageError: The file cannot be read, or a row is no pair.
    """
    path = check_readable(user_path(origin))
    if path.suffix.lower() not in _KINDS:
        raise UsageError(
            f"{printable_value(path)}: pairs come from {', '.join(_KINDS)}, not from another kind of file."
        )
    pairs = list(_read(path))  # so that a fault shows before a model is loaded
    if not pairs:
        raise UsageError(f"{printable_value(path)} holds no pairs of prompts.")

    def read(_tokenizer: Any, _seed: int) -> Iterator[Pair]:
        return iter(pairs)

    if "label" in pairs[0].facts:
        about, metric = greater_than.ABOUT, greater_than.METRIC
        return Task(greater_than.NAME, about, metric, read, origin, whole_answers=False, own=True)
    return Task(path.stem, "pairs from a file", "logit_diff", read, origin, own=True)


def _read(path: Path) -> Iterator[Pair]:
    """Yield the pairs of a file; raise NotFoundError for a column that is missing, UsageError for a row that is no pair."""
    for number, where, fields in file_table(path):
        known = ("clean", "corrupted") + (("label",) if "label" in fields else ("answer", "wrong"))
        for column in known:
            if column not in fields:
                hint = f"({where}) Pairs need the columns clean, corrupted, answer and wrong; or clean, corrupted and label."
                raise NotFoundError("column", column, map(printable_value, fields), hint)
        texts = {c: _text(fields[c], c, where) for c in known if c != "label"}
        if "label" in fields:
            label = _label(fields["label"], where)
            continuations, corruption = greater_than.numbers(label), greater_than.CORRUPTION
            facts = {**fields, "label": label}
        else:
            continuations, corruption, facts = answers(texts["answer"], texts["wrong"]), "own", fields
            if texts["answer"] == texts["wrong"]:
                raise UsageError(f"{where}: answer and wrong are the same text, {texts['answer']!r}.")
        template = fields.get("template")
        yield Pair(
            str(number),
            texts["clean"],
            texts["corrupted"],
            continuations,
            str(fields.get("corruption") or corruption),
            str(template) if template else None,
            {name: value for name, value in facts.items() if name not in ("clean", "corrupted")},
            where,
        )


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if value is None or isinstance(value, str) else f"holds {type(value).__name__}, not text"
        raise UsageError(f"{where}: column '{column}' {what}.")
    return value


def _label(value: Any, where: str) -> int:
    """Return the two digits of a year, 0 to 99."""
    digits = "" if isinstance(value, bool) else str(value).strip()
    if digits.isdecimal() and len(digits) <= 2:
        return int(digits)
    raise UsageError(
        f"{where}: label {printable_value(value, 40)} is no number from 0 to 99, the last two digits of the first year."
    )
