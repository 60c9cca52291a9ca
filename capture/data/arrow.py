"""Rows of Parquet files and Arrow tables as Python values, or one line that says which row has a value that is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.files import check_readable, printable_value
from warehouse.errors import UsageError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1024


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their numbers, from 1. Reads as it goes.

    Raises UsageError for a file that is not sound, and for a value that no Python value stands for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_readable(path)
    read = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as f:
            for batch in f.iter_batches(ROWS_AT_ONCE):
                for fields in plain_rows(batch, printable_value(path), read + 1):
                    read += 1
                    yield read, fields
    except (pa.ArrowException, OSError, ValueError) as e:  # ValueError: names of columns that are not UTF-8
        after = f" after row {read:,}" if read else ""
        raise UsageError(f"{printable_value(path)} is not a Parquet file, or damaged{after}: {error_reason(e)}") from None


def plain_rows(table: pa.RecordBatch | pa.Table, where: str, first: int) -> Iterator[dict[str, Any]]:
    """Rows as dicts; errors call them rows `first`, `first + 1`, … of `where`.

    Raises UsageError for a text that is not UTF-8, a date beyond Python's, and for two columns of one name.
    """
    names = table.schema.names
    if twice := next((n for n, count in Counter(names).items() if count > 1), None):
        raise UsageError(f"{where} has the column '{printable_value(twice)}' twice. Rename one.")
    try:
        rows = table.to_pylist()
    except Exception:  # every type has a converter of its own: text, dates, time zones and maps raise what they like
        for i in range(table.num_rows):
            for name in names:
                try:
                    table.column(name).slice(i, 1).to_pylist()
                except Exception as e:
                    raise UsageError(
                        f"{where}, row {first + i}: column '{printable_value(name)}' cannot be read: {error_reason(e)}"
                    ) from None
        raise
    yield from rows


def error_reason(e: Exception) -> str:
    """The first line of what a library says, with its own stop."""
    if isinstance(e, UnicodeDecodeError):
        return f"it is not UTF-8 text ({e.reason} at byte {e.start})."
    told = printable_value(first_line(e))
    return told if told.endswith(".") else f"{told}."
