"""Turns rows with columns into `Row`s: one column is the text or a chat, one may hold labels, one ids, the others are metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from capture.data.choice_columns import parse_answer, parse_choices
from capture.data.evaluation import Evaluation, as_text, correctness, joined, parts
from capture.data.evaluation import number as score_value
from capture.data.example import Label, Row
from capture.data.files import printable_value
from capture.data.plain import plain
from capture.data.transcript import Completion, Transcript, parse_chat
from warehouse.errors import NotFoundError, UsageError

SAID = {"target": "target", "answer": "answer", "explanation": "explanation", "task": "task", "model": "answered_by"}
"""Columns that say more of a score beside them, and what they are in `evaluations`. They are metadata as well."""

CHAT_COLUMNS = ("messages", "conversations")
"""The columns in which chats are looked for, where none is named."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class Columns:
    """Which column of a table is the text, and which holds labels."""

    text: str = "text"
    label: str | None = None
    label_names: Sequence[str] | None = None
    """The names of the labels, by number, where the column holds numbers that have names. -1 is then no label."""
    id: str | None = None
    """The column that tells the texts apart; None: the texts do."""
    chats: bool = False
    """Whether the text's column holds chats, as lists of messages; a column `tools` then says what the model may call."""
    response: str | None = None
    """The column with the response to the text, where the text is a prompt."""
    scores: tuple[str, ...] = ()
    """Columns with scores of the text, or of its response; what columns of `SAID` say of them is kept with them."""
    choices: str | None = None
    """The column with the choices of a question."""
    answer: str | None = None
    """The column that says which choice is the right one."""

    @property
    def reads(self) -> str | None:
        """What `Source.reads` says of them."""
        read = (
            ("chats", self.text if self.chats else None),
            ("labels", self.label),
            ("ids", self.id),
            ("responses", self.response),
            *(("scores", column) for column in self.scores),
            ("choices", self.choices),
            ("answers", self.answer),
        )
        return ", ".join(f"{what} from column '{column}'" for what, column in read if column is not None) or None

    def rows(self, table: Iterable[tuple[int, str, dict[str, Any]]]) -> Iterator[Row]:
        """Turn the rows of one pass over the data into `Row`s.

        Args:
            table: For each row its number, its place as messages name it, and its fields by column.

        Yields:
            The rows, with the other columns as metadata. Their id is the number, or what the column of ids holds.

        Raises:
            NotFoundError: A row has no such column.
            UsageError: A value cannot be a text, a label or an id, or two rows have the same id.
        """
        labels, ids = _LabelNumbers(self), _Ids(self)
        for number, where, fields in table:
            hint = "Name the text's column: --text-column."
            if not self.chats and "messages" in fields:
                hint = "Chats are read with --data FILE."
            _check_column(self.text, fields, where, hint)
            if self.label is not None:
                hint = "Name the labels' column: --label-column; a row without a label has null or nothing there."
                _check_column(self.label, fields, where, hint)
            if self.id is not None:
                _check_column(self.id, fields, where, "Name the column with ids: --id-column.")
            for option, column in self.named:
                _check_column(column, fields, where, f"Name another: {option}.")
            read = {self.text, self.label, self.id, "tools" if self.chats else None, *(c for _, c in self.named)}
            others = {name: value for name, value in fields.items() if name not in read}
            chat = parse_chat(fields[self.text], fields.get("tools"), where) if self.chats else None
            text = _text(fields[self.text], self.text, where) if chat is None else chat.text
            said: tuple[Transcript, ...] = () if chat is None else (chat,)
            if self.response is not None:
                said = (Completion(text, _text(fields[self.response], self.response, where)),)
            choices = () if self.choices is None else parse_choices(fields[self.choices], f"{where}: {self.choices}")
            right = None
            if self.answer is not None:
                right = parse_answer(fields[self.answer], choices, f"{where}: {self.answer}")
            row_labels = () if self.label is None else labels.labels_in(fields[self.label], where)
            row_id = str(number)
            if self.id is not None and text.strip():  # a row of white space is no example
                row_id = ids.checked(fields[self.id], where)
            yield Row(
                row_id,
                text,
                others,
                labels=row_labels,
                choices=choices,
                answer=right,
                transcripts=said,
                evaluations=tuple(score for column in self.scores for score in _scores(column, fields, where)),
            )

    @property
    def named(self) -> list[tuple[str, str]]:
        """The columns that an option names, besides text, labels and ids, each after its option."""
        named = [("--response-column", self.response), *(("--score-column", column) for column in self.scores)]
        named += [("--choices-column", self.choices), ("--answer-column", self.answer)]
        return [(option, column) for option, column in named if column is not None]


def _scores(column: str, fields: dict[str, Any], where: str) -> Iterator[Evaluation]:
    """Yield the scores in a column: none for null or nothing, several for a list or an object."""
    try:
        score = plain(fields[column])
        said: dict[str, Any] = {SAID[name]: joined(plain(fields.get(name))) for name in SAID}
    except ValueError as e:
        raise UsageError(f"{where}: {e}.") from None
    for metric, value in parts(score):
        if value is not None and value != "":
            yield Evaluation(
                0,
                column,
                metric,
                as_text(value),
                score_value(value),
                correctness(value),
                **said,
            )


def _check_column(name: str, fields: dict[str, Any], where: str, hint: str) -> None:
    """Raise NotFoundError where a row has no such column."""
    if name not in fields:
        raise NotFoundError("column", printable_value(name), map(printable_value, fields), f"({where}) {hint}")


def _text(value: Any, column: str, where: str) -> str:
    """Return the text in a column; raise UsageError where it holds something else."""
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


class _Ids:
    """Checks the ids of one pass over the data: texts or whole numbers, each of them once."""

    def __init__(self, columns: Columns) -> None:
        self._column = columns.id
        self._rows: dict[str, str] = {}
        """The place of the row that each id was first on."""

    def checked(self, value: Any, where: str) -> str:
        """Return an id as text; raise UsageError where it is missing, of another kind, or an earlier row's."""
        column = f"column '{printable_value(self._column)}'"
        if isinstance(value, bytes):
            value = _text(value, str(self._column), where)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UsageError(f"{where}: {column} is empty: every row needs an id of its own.")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UsageError(f"{where}: {column} holds {type(value).__name__}, not an id: a text or a whole number.")
        row_id = str(value)
        if (first := self._rows.setdefault(row_id, where)) != where:
            raise UsageError(f"{first} and {where} have the same id, {printable_value(row_id, 60)} ({column}).")
        return row_id


class _LabelNumbers:
    """Numbers the labels of one pass over the data.

    An integer (or a text that is one) is its own number, true and false are 1 and 0, and any other label gets the least number
    that is free when it first appears.
    """

    def __init__(self, columns: Columns) -> None:
        self._column, self._names = columns.label, columns.label_names
        self._numbers: dict[str, int] = {}
        self._labels: dict[int, str] = {}
        self._free = 0

    def labels_in(self, value: Any, where: str) -> tuple[Label, ...]:
        """Return the labels of a row, each once: none for null or white space, several for a list."""
        values = value if isinstance(value, list) else [value]
        labels = (self._label(v, f"{where}: column '{printable_value(self._column)}'") for v in values)
        return tuple(dict.fromkeys(label for label in labels if label is not None))

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
            return Label(self._number(str(value).lower(), int(value), where), str(value).lower())
        if not isinstance(value, str | int | float):
            raise UsageError(
                f"{where} holds {type(value).__name__}, not a label: a text, a number, true or false, or a list of those."
            )
        label = str(value)
        return Label(self._number(label, int(label) if _is_int32(label) else None, where), label)

    def _named(self, value: int, names: Sequence[str], where: str) -> Label | None:
        if value == -1:
            return None
        if not 0 <= value < len(names):
            raise UsageError(f"{where} has the label {value}, and there are names for 0 to {len(names) - 1}.")
        return Label(value, names[value])

    def _number(self, label: str, fixed: int | None, where: str) -> int:
        """Return the number of a label: the fixed one, or the least that is free."""
        if label in self._numbers:
            return self._numbers[label]
        while fixed is None and self._free in self._labels:
            self._free += 1
        number = self._free if fixed is None else fixed
        if number in self._labels:
            raise UsageError(
                f"{where} has the label {printable_value(label, 40)}, and {number} is already the number of the label "
                f"{printable_value(self._labels[number], 40)}. Write all labels as integers, or all as names."
            )
        self._numbers[label], self._labels[number] = number, label
        return number


def _is_int32(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) and -(1 << 31) <= int(text) < 1 << 31
