"""Reads CSV and TSV: a header line, then one row a line, or over several lines where a quoted field holds line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from capture.data.files import decode_lines, line_location, open_file, printable_value
from warehouse.errors import UsageError

_LONGEST = (1 << 31) - 1
"""Most characters of a field; the reader's own limit of 131,072 is less than a book."""


def csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the rows of a CSV or TSV file; blank lines are skipped.

    Args:
        path: The file.
        delimiter: The character between fields.

    Yields:
        Each row's first line, counted from 1, and its fields by name.

    Raises:
        UsageError: A row has another number of fields than the header, quotation marks don't match, there is a NUL character, or
            a name in the header is empty or repeated. The message names file and line.
    """
    csv.field_size_limit(_LONGEST)
    with open_file(path) as f:
        reader = csv.reader(_lines(f, path), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as e:
                raise UsageError(f"{line_location(path, line)}: {_reason(e)}.") from None
            if fields is None:
                return
            if not fields:
                continue
            if not header:
                header = _checked(fields, line_location(path, line))
            elif len(fields) != len(header):
                raise UsageError(
                    f"{line_location(path, line)} has {len(fields)} fields, not {len(header)} as the header has."
                )
            else:
                yield line, dict(zip(header, fields, strict=True))


def _lines(stream: Iterator[bytes], path: Path) -> Iterator[str]:
    for number, line in decode_lines(stream, printable_value(path)):
        if "\0" in line:
            raise UsageError(f"{line_location(path, number)} holds a NUL character: it is not text, or not UTF-8.")
        yield line


def _reason(e: csv.Error) -> str:
    """Say what the csv reader means."""
    text = str(e).partition(" - ")[0]  # what follows is advice to programmers
    if text == "unexpected end of data":
        return "a quotation mark opens a field and none closes it"
    return "a carriage return stands alone in a field without quotation marks" if "new-line" in text else text


def _checked(header: list[str], where: str) -> list[str]:
    seen = set()
    for i, name in enumerate(header, 1):
        if not name.strip():
            raise UsageError(f"{where}: column {i} of the header has no name.")
        if name in seen:
            raise UsageError(f"{where}: the header has the column '{printable_value(name)}' twice.")
        seen.add(name)
    return header
