"""Answers on the way out: a DuckDB relation as a table, CSV, TSV, JSON or Parquet. Rows are streamed, never all held."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from warehouse.errors import UsageError
from warehouse.storage.files import temporary_beside
from warehouse.storage.strict_json import finite

if TYPE_CHECKING:
    import duckdb

_ROWS_AT_ONCE = 1024


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    tsv = "tsv"
    json = "json"
    parquet = "parquet"


class ReportFormat(StrEnum):
    """How a report is written."""

    table = "table"
    tsv = "tsv"
    json = "json"


def format_of(target: Path | None, chosen: Format | None) -> Format:
    """Return the format to write in.

    Args:
        target: The file; None: standard output.
        chosen: The format that the user named; None: none.

    Returns:
        The named format, else the one of the file's ending, else a table.

    Raises:
        UsageError: The ending names no format.
    """
    if chosen is not None or target is None:
        return chosen or Format.table
    ending = target.suffix.lower().removeprefix(".")
    if ending == "txt":
        return Format.table
    if ending not in [f.value for f in Format]:
        raise UsageError(
            f"{target}: its ending names no format. End it in .csv, .tsv, .json, .parquet or .txt, or add --format."
        )
    return Format(ending)


def write(answer: duckdb.DuckDBPyRelation, fmt: Format, target: Path | None) -> None:
    """Write an answer, whole or not at all.

    Args:
        answer: The rows; they are streamed.
        fmt: The format.
        target: The file; None: standard output.

    Raises:
        UsageError: Parquet would go to a terminal.
    """
    if target is None:
        if fmt is Format.parquet:
            if sys.stdout.isatty():
                raise UsageError("Parquet is not for a terminal: add --output FILE, or send it into a file with >.")
            answer.write_parquet("/dev/stdout")
        else:
            _write_text(answer, fmt, sys.stdout)
        return
    if target.exists() and not target.is_file():  # a pipe
        _write_file(answer, fmt, target)
        return
    temporary = temporary_beside(target)
    try:
        _write_file(answer, fmt, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_file(answer: duckdb.DuckDBPyRelation, fmt: Format, target: Path) -> None:
    if fmt is Format.parquet:
        answer.write_parquet(str(target))
        return
    with target.open("w", encoding="utf-8", newline="") as f:
        _write_text(answer, fmt, f)


def _write_text(answer: duckdb.DuckDBPyRelation, fmt: Format, out: IO[str]) -> None:
    if fmt is Format.table:
        out.write(str(answer))
        return
    first = answer.fetchmany(_ROWS_AT_ONCE)  # where the query fails, nothing has been written
    rows = chain(first, _rows(answer))
    if fmt is Format.json:
        _write_json(_unique(answer.columns), rows, out)
        return
    writer = csv.writer(out, dialect="excel-tab" if fmt is Format.tsv else "excel", lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([_cell(v) for v in row] for row in rows)


def _write_json(names: list[str], rows: Iterable[tuple[Any, ...]], out: IO[str]) -> None:
    """Write an array of objects, one a line."""
    out.write("[")
    for i, row in enumerate(rows):
        out.write((",\n" if i else "\n") + _json(dict(zip(names, row, strict=True))))
    out.write("\n]\n")


def _unique(columns: list[str]) -> list[str]:
    """Return column names of which no two are alike: the second `a` is `a_1`, as in a table of DuckDB."""
    names: list[str] = []
    for column in columns:
        candidates = chain([column], (f"{column}_{n}" for n in count(1)))
        names.append(next(name for name in candidates if name not in names))
    return names


def _rows(answer: duckdb.DuckDBPyRelation) -> Iterator[tuple[Any, ...]]:
    while rows := answer.fetchmany(_ROWS_AT_ONCE):
        yield from rows


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _json(value) if isinstance(value, list | tuple | dict) else value


def _json(value: Any) -> str:
    return json.dumps(finite(_text_keys(value)), default=_plain, ensure_ascii=False)


def _text_keys(value: Any) -> Any:
    """Return a value whose mappings have texts as keys, as objects of JSON do."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k): _text_keys(v) for k, v in value.items()}
    return [_text_keys(v) for v in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return str(value)


def human_bytes(n: float) -> str:
    """Return a number of bytes to read: `12345678` is `12.3 MB`."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def human_age(seconds: float) -> str:
    """Return a time in seconds to read: `7300` is `2 hours`."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' if n > 1 else ''}"
    return "now"
