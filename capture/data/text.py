"""Reads texts from a file or standard input: lines (.txt, `-`), or a column of .jsonl, .json, .csv, .tsv or .parquet; and chats.

Knows no particular data set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from capture.data.arrow import parquet_rows
from capture.data.columns import CHAT_COLUMNS, Columns
from capture.data.csv_file import csv_rows
from capture.data.example import Row, Source
from capture.data.files import (
    check_readable,
    file_lines,
    json_lines,
    json_rows,
    printable_value,
    user_path,
    whole_lines,
)
from capture.workers.assignment import assigned_part
from warehouse.errors import UsageError

_PROMPT_COLUMN, _RESPONSE_COLUMNS = "prompt", ("response", "completion")
_CHAT_FILES = (".jsonl", ".ndjson", ".json", ".parquet")
_KINDS = ".txt (a text a line), .jsonl, .ndjson, .json, .csv, .tsv or .parquet"


def open_text(origin: str, text_column: str, label_column: str | None = None, id_column: str | None = None) -> Source:
    """Open the texts of a file, or of standard input, as `open_table` does.

    Args:
        origin: The file, or `-` for standard input.
        text_column: The column that is the text.
        label_column: The column that holds labels, if any.
        id_column: The column that tells the texts apart; None: the texts do.

    Returns:
        The source of its examples.
    """
    return open_table(origin, Columns(text_column, label_column, id=id_column))


def open_table(origin: str, columns: Columns) -> Source:
    """Open the texts of a file, or of standard input.

    The source raises UsageError, now or while it is read, where the file is missing, unreadable or of an unknown kind, or has no
    such column.

    Args:
        origin: The file, or `-` for standard input.
        columns: The columns that are read, in a file that has columns.

    Returns:
        The source of its examples.
    """
    if origin == "-":
        _check_columns(columns, "Standard input")
        lines = _standard_input()  # kept, since it can be read only once
        return own_texts("stdin", "-", lambda: _text_rows(whole_lines(lines, "standard input")))
    path = check_readable(user_path(origin))
    if path.suffix.lower() in (".txt", ""):
        _check_columns(columns, printable_value(path))
    return own_texts(path.stem, origin, lambda: file_rows(path, columns), columns)


def open_chats(origin: str, named: bool = False, columns: Columns | None = None) -> Source:
    """Open the chats of a file: a list of messages a row, and the tools that the model may call in a column `tools`.

    A file without messages may have prompts instead, each with its response.

    Args:
        origin: The file: .jsonl, .ndjson, .parquet, or .json with a list of rows.
        named: Whether the column of the messages, or of the prompts, is that of `columns`; else it is `messages` or `conversations`,
            or `prompt` with `response` or `completion`.
        columns: The columns that are read; None: no others.

    Returns:
        The source of its examples.

    Raises:
        UsageError: The file is missing or unreadable, of an unknown kind, or has no such column.
    """
    path, columns = check_readable(user_path(origin)), columns or Columns()
    if path.suffix.lower() not in _CHAT_FILES:
        ending = printable_value(path.suffix) or "a file without ending"
        raise UsageError(
            f"{printable_value(path)}: chats come from {', '.join(_CHAT_FILES)}, not from {ending}. For your own texts: --text FILE"
        )
    first = next(file_table(path), None)
    names = () if first is None else tuple(first[2])
    responses = (
        [name for name in _RESPONSE_COLUMNS if name in names] if columns.response is None else [columns.response]
    )
    column = columns.text if named else next((name for name in CHAT_COLUMNS if name in names), None)
    if (column is None and _PROMPT_COLUMN in names and responses) or columns.response is not None:
        columns = replace(columns, text=columns.text if named else _PROMPT_COLUMN, response=responses[0])
    elif first is not None and column is None:
        raise UsageError(
            f"{first[1]} has no chat: no column {' or '.join(CHAT_COLUMNS)} with a list of messages (it has: "
            f"{', '.join(map(printable_value, names)) or 'nothing'}), no {_PROMPT_COLUMN} with a {' or '.join(_RESPONSE_COLUMNS)}, and "
            "it is no log of an evaluation. Another column: --text-column NAME. A file of texts: --text FILE"
        )
    else:
        columns = replace(columns, text=column or CHAT_COLUMNS[0], chats=True)
    read = columns
    return own_texts(path.stem, origin, lambda: read.rows(file_table(path)), read)


def own_texts(name: str, origin: str, rows: Callable[[], Iterator[Row]], columns: Columns | None = None) -> Source:
    """Return a source of texts of the user's own, which are told apart by themselves or by a column of ids.

    Args:
        name: What the data set is called.
        origin: Where they are read from, as the user named it.
        rows: Reads them.
        columns: The columns that are read, where there are columns.

    Returns:
        The source.
    """
    columns = columns or Columns()
    has_ids = columns.id is not None
    return Source(name, None, None, origin, rows, columns.reads, has_ids, own=True, chats=columns.chats)


def one_text(text: str) -> Source:
    """Return a source of one text."""
    return own_texts("text", "the text", lambda: iter([Row("0", text)]))


def file_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Read every row of a file, as it goes, with blank rows, so that row numbers are the file's.

    Args:
        path: The file.
        columns: The columns of the text and of labels.

    Returns:
        The rows. Reading them raises UsageError where the file is missing, unreadable or of an unknown kind, or has no such column.
    """
    if path.suffix.lower() in (".txt", ""):
        return _text_rows(file_lines(path))
    return columns.rows(file_table(path))


def file_table(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Read the rows of a file that has columns.

    Args:
        path: The file.

    Returns:
        For each row its number, its place as messages name it, and its fields by column. Reading them raises UsageError where the
        file is missing or unreadable.

    Raises:
        UsageError: The file is of an unknown kind.
    """
    table: Iterator[tuple[int, dict[str, Any]]]
    name = printable_value(path)
    match path.suffix.lower():
        case ".parquet":
            return ((n, f"{name}, row {n}", fields) for n, fields in parquet_rows(path))
        case ".jsonl" | ".ndjson":
            table = json_lines(path)
        case ".json":
            return ((n, f"{name}, row {n}", fields) for n, fields in json_rows(path))
        case ".csv":
            table = csv_rows(path, ",")
        case ".tsv":
            table = csv_rows(path, "\t")
        case _:
            raise UsageError(
                f"{name}: texts come from {_KINDS}, not from {printable_value(path.suffix)}. A text a line under another name: "
                "--text - < FILE"
            )
    return ((n, f"{name}, line {n}", fields) for n, fields in table)


def _check_columns(columns: Columns, where: str) -> None:
    """Raise UsageError where labels, ids or others are asked for, and there are only lines."""
    for option, column in (("--label-column", columns.label), ("--id-column", columns.id), *columns.named):
        if column is not None:
            raise UsageError(
                f"{where} has a text a line and no columns: {option} goes with .jsonl, .csv, .tsv and .parquet."
            )


def _standard_input() -> list[bytes]:
    if sys.stdin is None:  # closed by the shell: <&-
        raise UsageError("Standard input is closed: there is no text to read.")
    if assigned_part():
        raise UsageError(
            "Standard input is read once, and with --workers every process reads the texts: make a file of it."
        )
    try:
        return list(sys.stdin.buffer)
    except OSError as e:
        raise UsageError(f"Standard input cannot be read: {e.strerror or e}.") from None


def _text_rows(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    return (Row(str(number), line) for number, line in lines)
