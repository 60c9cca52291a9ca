"""CSV and TSV: a header line, then a row a line, or several lines where a field in quotation marks holds their ends."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from capture.data.files import decode_lines, open_file, line_location, printable_value
from warehouse.errors import UsageError

_LONGEST = (1 << 31) - 1
"""Characters of a field; the reader's own limit of 131,072 is less than a book."""


def csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Every row's first line, counted from 1, and its fields by name. Blank lines are passed over.

    Raises UsageError, with file and line, for a row that has not the header's number of fields, quotation marks that do not
    fit, NUL characters, and a header with a name that is empty or there twice.
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
                raise UsageError(f"{line_location(path, line)} has {len(fields)} fields, not {len(header)} as the header has.")
            else:
                yield line, dict(zip(header, fields, strict=True))


def _lines(stream: Iterator[bytes], path: Path) -> Iterator[str]:
    for number, line in decode_lines(stream, printable_value(path)):
        if "\0" in line:
            raise UsageError(f"{line_location(path, number)} holds a NUL character: it is no text, or not UTF-8.")
        yield line


def _reason(e: csv.Error) -> str:
    told = str(e).partition(" - ")[0]  # what follows is advice to programmers
    if told == "unexpected end of data":
        return "a quotation mark opens a field and none closes it"
    return "a carriage return stands alone in a field without quotation marks" if "new-line" in told else told


def _checked(header: list[str], where: str) -> list[str]:
    seen = set()
    for i, name in enumerate(header, 1):
        if not name.strip():
            raise UsageError(f"{where}: column {i} of the header has no name.")
        if name in seen:
            raise UsageError(f"{where}: the header has the column '{printable_value(name)}' twice.")
        seen.add(name)
    return header
