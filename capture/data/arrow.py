"""Reads rows of Parquet files and Arrow tables as Python values; where that fails, one line says which row and why."""

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
    """Read the rows of a Parquet file, batch by batch.

    Args:
        path: The file.

    Yields:
        Each row's number, from 1, and its fields by name.

    Raises:
        UsageError: The file is damaged, or a value has no counterpart in Python.
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
        raise UsageError(
            f"{printable_value(path)} is not a Parquet file, or damaged{after}: {error_reason(e)}"
        ) from None


def plain_rows(table: pa.RecordBatch | pa.Table, where: str, first: int) -> Iterator[dict[str, Any]]:
    """Convert the rows of an Arrow table into dicts.

    Args:
        table: The table.
        where: What messages call it.
        first: The number of its first row, for messages.

    Yields:
        Each row's fields by name.

    Raises:
        UsageError: A text is not UTF-8, a date is beyond Python's, or two columns have one name.
        Exception: Whatever pyarrow raised, where no single value is at fault.
    """
    names = table.schema.names
    if twice := next((n for n, count in Counter(names).items() if count > 1), None):
        raise UsageError(f"{where} has the column '{printable_value(twice)}' twice. Rename one.")
    try:
        rows = table.to_pylist()
    except Exception:  # every type has a converter of its own: text, dates, time zones and maps may raise anything
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
    """Return the first line of what a library says, ending in a full stop."""
    if isinstance(e, UnicodeDecodeError):
        return f"it is not UTF-8 text ({e.reason} at byte {e.start})."
    line = printable_value(first_line(e))
    return line if line.endswith(".") else f"{line}."
