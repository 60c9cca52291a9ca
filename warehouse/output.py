"""Answers on the way out: a DuckDB relation as a table, CSV, TSV, JSON or Parquet. Rows are streamed, never all held."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from warehouse.errors import UsageError

if TYPE_CHECKING:
    import duckdb

_ROWS_AT_ONCE = 1024


class Format(StrEnum):
    table = "table"
    csv = "csv"
    tsv = "tsv"
    json = "json"
    parquet = "parquet"


class ReportFormat(StrEnum):
    table = "table"
    tsv = "tsv"
    json = "json"


def write(answer: duckdb.DuckDBPyRelation, fmt: Format, target: Path | None) -> None:
    """Writes to `target`, or to standard output. Raises UsageError for Parquet on a terminal."""
    if fmt is Format.parquet:
        if target is None and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal: add --output FILE, or send it into a file with >.")
        answer.write_parquet(str(target or "/dev/stdout"))
        return
    if target is None:
        _write_text(answer, fmt, sys.stdout)
        return
    with target.open("w", encoding="utf-8", newline="") as f:
        _write_text(answer, fmt, f)


def _write_text(answer: duckdb.DuckDBPyRelation, fmt: Format, out: IO[str]) -> None:
    if fmt is Format.table:
        out.write(str(answer))
    elif fmt is Format.json:
        _write_json(answer, out)
    else:
        writer = csv.writer(out, dialect="excel-tab" if fmt is Format.tsv else "excel", lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows([_cell(v) for v in row] for row in _rows(answer))


def _write_json(answer: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """An array of objects, one a line."""
    out.write("[")
    for i, row in enumerate(_rows(answer)):
        fields = dict(zip(answer.columns, row, strict=True))
        out.write((",\n" if i else "\n") + json.dumps(_finite(fields), default=_plain, ensure_ascii=False))
    out.write("\n]\n")


def _rows(answer: duckdb.DuckDBPyRelation) -> Iterator[tuple[Any, ...]]:
    while rows := answer.fetchmany(_ROWS_AT_ONCE):
        yield from rows


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return value


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return str(value)


def human_bytes(n: float) -> str:
    """`12345678` → `12.3 MB`."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def human_age(seconds: float) -> str:
    """`7300` → `2 hours`."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' if n > 1 else ''}"
    return "now"
