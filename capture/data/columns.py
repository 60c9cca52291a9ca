"""Rows that come with columns → `Row`s: one column is the text, one may hold labels, the others are metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from capture.data.example import Label, Row
from capture.data.files import printable_value
from capture.data.plain import plain
from warehouse.errors import NotFoundError, UsageError

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class Columns:
    text: str = "text"
    label: str | None = None
    label_names: Sequence[str] | None = None
    """Where the column holds numbers that have names: the names, by number. -1 is no label there."""

    @property
    def reads(self) -> str | None:
        """What a `Source` says of them."""
        return None if self.label is None else f"labels from column '{self.label}'"

    def rows(self, found: Iterable[tuple[int, str, dict[str, Any]]]) -> Iterator[Row]:
        """The rows of one pass over the data, given each one's number, its place as errors name it, and its columns.

        Raises UsageError, with the place, where a row has no such column, no text, or something that is no label.
        """
        labels = _LabelNumbers(self)
        for number, where, fields in found:
            if self.text not in fields:
                raise _missing(self.text, fields, f"({where}) Name the text's column: --text-column.")
            if self.label is not None and self.label not in fields:
                hint = "Name the labels' column: --label-column; a row without a label has null or nothing there."
                raise _missing(self.label, fields, f"({where}) {hint}")
            others = {name: value for name, value in fields.items() if name not in (self.text, self.label)}
            text = _text(fields[self.text], self.text, where)
            found_labels = () if self.label is None else labels.labels_in(fields[self.label], where)
            yield Row(str(number), text, others, labels=found_labels)


def _missing(name: str, fields: dict[str, Any], hint: str) -> NotFoundError:
    return NotFoundError("column", printable_value(name), map(printable_value, fields), hint)


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, str):
        return value
    where = f"{where}: column '{printable_value(column)}'"
    if isinstance(value, bytes):  # of a Parquet file whose writer did not say that its bytes are text
        try:
            return value.decode()
        except UnicodeDecodeError as e:
            raise UsageError(f"{where} is not UTF-8 text ({e.reason} at byte {e.start}).") from None
    if value is None:
        raise UsageError(f"{where} is null: give the row a text, or leave it out.")
    raise UsageError(f"{where} holds {type(value).__name__}, not text.")


class _LabelNumbers:
    """Numbers the labels of one pass over the data: an integer (or a text that is one) is its own number, true and false are
    1 and 0, and any other label has the least number that is free when it first appears.
    """

    def __init__(self, columns: Columns) -> None:
        self._column, self._names = columns.label, columns.label_names
        self._numbers: dict[str, int] = {}
        self._labels: dict[int, str] = {}
        self._free = 0

    def labels_in(self, value: Any, where: str) -> tuple[Label, ...]:
        """The labels of a row: none of null or white space, several of a list, each once. Raises UsageError."""
        values = value if isinstance(value, list) else [value]
        found = (self._label(v, f"{where}: column '{printable_value(self._column)}'") for v in values)
        return tuple(dict.fromkeys(label for label in found if label is not None))

    def _label(self, value: Any, where: str) -> Label | None:
        if self._names is not None and isinstance(value, int):
            return self._named(value, self._names, where)
        try:
            value = plain(value)
        except ValueError as e:
            raise UsageError(f"{where}: {e}.") from None
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, bool):
            return Label(self._numbered(str(value).lower(), int(value), where), str(value).lower())
        if not isinstance(value, str | int | float):
            raise UsageError(
                f"{where} holds {type(value).__name__}, not a label: a text, a number, true or false, or a list of those."
            )
        label = str(value)
        return Label(self._numbered(label, int(label) if _is_int32(label) else None, where), label)

    def _named(self, value: int, names: Sequence[str], where: str) -> Label | None:
        if value == -1:
            return None
        if not 0 <= value < len(names):
            raise UsageError(f"{where} has the label {value}, and there are names for 0 to {len(names) - 1}.")
        return Label(value, names[value])

    def _numbered(self, label: str, own: int | None, where: str) -> int:
        if label in self._numbers:
            return self._numbers[label]
        while own is None and self._free in self._labels:
            self._free += 1
        number = self._free if own is None else own
        if number in self._labels:
            raise UsageError(
                f"{where} has the label {printable_value(label, 40)}, and {number} is already the number of the label "
                f"{printable_value(self._labels[number], 40)}. Write all labels as integers, or all as names."
            )
        self._numbers[label], self._labels[number] = number, label
        return number


def _is_int32(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) and -(1 << 31) <= int(text) < 1 << 31
