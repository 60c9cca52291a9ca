"""Parquet files of a table: one for each shard while the run is staged, one sorted file once it is published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_parquet
from warehouse.schema.tables import STORED
from warehouse.schema.types import Table
from warehouse.storage.files import parquet_source, sync_file
from warehouse.storage.objects import AnyPath
from warehouse.storage.sorted_merge import merge_sorted, sort_rows

ROW_GROUP = 122_880
"""Rows in a row group, at most: DuckDB's own unit of parallel scanning."""
GROUP_BYTES = 1 << 26
"""Bytes of its rows in memory, about, at most: long texts make it hold fewer."""
_PART_GROUP = 1 << 18
"""Bytes of a row group of a part: one of every part is in memory while they are merged."""

_AT_ONCE = 128
"""Files that are merged at once, at most: with more, they become fewer first."""

_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "write_statistics": True}
_PART_OPTIONS: dict[str, Any] = {"compression": "lz4", "use_dictionary": False}
"""A part is read once, and deleted: what matters is the time of writing and reading it."""


def to_table(name: str, columns: Mapping[str, Sequence[Any] | pa.Array]) -> pa.Table:
    """Make the rows of a table from its columns.

    Args:
        name: The table.
        columns: All its columns but `run_id`, by name.

    Returns:
        The rows, with the table's Arrow schema.

    Raises:
        ValueError: A column is missing or unknown; one of another type raises as Arrow does.
    """
    schema = arrow_schema(name)
    if set(columns) != set(schema.names):
        raise ValueError(f"{name}: columns {sorted(set(columns) ^ set(schema.names))} are missing or unknown")
    arrays = [
        c if isinstance(c, pa.Array | pa.ChunkedArray) else pa.array(c, field.type)
        for field in schema
        for c in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_table_file(path: Path, rows: pa.Table) -> None:
    """Write rows of a table to one file, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **_OPTIONS)
    sync_file(path)


def write_part(name: str, path: Path, rows: pa.Table) -> None:
    """Write a part of a table's rows to a file that `merge_table_files` merges with little memory, durable on return.

    Args:
        name: The table.
        path: The file.
        rows: The rows, in any order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = STORED[name].sort_key
    _write_sorted(rows.cast(arrow_schema(name)).combine_chunks(), keys, path)  # Arrow sorts no dictionaries
    sync_file(path)


def rewrite_table_file(source: AnyPath, target: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the rows of `source` as `change` leaves them, a row group at a time, durable on return."""
    file = pq.ParquetFile(parquet_source(source))
    with pq.ParquetWriter(target, file.schema_arrow, **_OPTIONS) as writer:
        for batch in file.iter_batches(ROW_GROUP):
            writer.write_table(change(pa.Table.from_batches([batch])))
    sync_file(target)


def examples_hash(files: Iterable[AnyPath]) -> str:
    """Return the xxh3-128 over every example's id and text, in the order of the data, in hex.

    Args:
        files: Files of the table `examples`.

    Returns:
        32 hex digits: `DataInfo.hash`.
    """
    digest = xxhash.xxh3_128()
    with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as folder:
        for rows in merge_sorted(_sorted_by_place(files, Path(folder)), ["idx"]):
            for example_id, text in zip(rows["example_id"].to_pylist(), rows["text"].to_pylist(), strict=True):
                digest.update(f"{example_id}\x1f{text}\x1e".encode())
    pa.default_memory_pool().release_unused()
    return digest.hexdigest()


def _sorted_by_place(files: Iterable[AnyPath], folder: Path) -> list[Path]:
    """Write the ids and texts of examples into files, each in the order of the data."""
    parts: list[Path] = []
    for file in map(parquet_source, files):
        footer = pq.read_metadata(file)
        size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        at_once = min(ROW_GROUP // 4, _rows_within(GROUP_BYTES // 4, footer.num_rows, size))
        for batch in pq.ParquetFile(file).iter_batches(
            at_once, columns=["idx", "example_id", "text"], use_threads=False
        ):
            parts.append(folder / f"{len(parts)}.parquet")
            _write_sorted(pa.Table.from_batches([batch]), ["idx"], parts[-1])
    return parts


def merge_table_files(name: str, sources: Sequence[Path], target: Path) -> int:
    """Merge files of a table into one, sorted by the table's key.

    Args:
        name: The table.
        sources: The files to merge, sorted if little memory is to be used, as `write_part` leaves them.
        target: The file to write, durable on return.

    Returns:
        The number of rows.
    """
    table, schema, count = STORED[name], arrow_schema(name), 0
    if table.combined is None and len(sources) > _AT_ONCE:
        return _merge_in_passes(name, sources, target)
    # One sequence is looked for at a time, and a row group of the tensor index is read for it.
    size = ROW_GROUP // 4 if name == "tensors" else ROW_GROUP
    target.parent.mkdir(parents=True, exist_ok=True)
    pieces = merge_sorted(sources, table.sort_key) if table.combined is None else iter([_combine(table, sources)])
    with pq.ParquetWriter(target, schema, **_OPTIONS) as writer:
        for rows in _cut(pieces, size):
            count += len(rows)
            writer.write_table(rows.cast(schema))
    pa.default_memory_pool().release_unused()  # the next table takes it again, and what follows it does not need it
    sync_file(target)
    return count


def _merge_in_passes(name: str, sources: Sequence[Path], target: Path) -> int:
    """Merge many files by way of fewer, since of each that is merged something is in memory; return the number of rows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="merge-", dir=target.parent) as folder:
        merged: list[Path] = []
        for first in range(0, len(sources), _AT_ONCE):
            merged.append(Path(folder) / f"{len(merged)}.parquet")
            pieces = merge_sorted(sources[first : first + _AT_ONCE], STORED[name].sort_key)
            writer: pq.ParquetWriter | None = None
            for rows in pieces:
                writer = writer or pq.ParquetWriter(merged[-1], rows.schema, write_statistics=True, **_PART_OPTIONS)
                writer.write_table(rows, _part_rows(rows))
            if writer is None:
                merged.pop()
            else:
                writer.close()
        return merge_table_files(name, merged, target)


def _write_sorted(rows: pa.Table, keys: Sequence[str], path: Path) -> None:
    """Sort rows and write them to a file that `merge_sorted` reads a little of at a time."""
    rows = sort_rows(rows, keys)
    pq.write_table(rows, path, row_group_size=_part_rows(rows), write_statistics=list(keys), **_PART_OPTIONS)


def _part_rows(rows: pa.Table) -> int:
    """Return how many rows a row group of a part has."""
    return _rows_within(_PART_GROUP, len(rows), rows.nbytes)


def _rows_within(most: int, rows: int, size: int) -> int:
    """Return how many of rows of some size together, in bytes, have at most so many bytes; 1 at least."""
    return max(1, most * rows // max(1, size))


def _cut(pieces: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Cut tables, one after the other, into tables of `size` rows, or of fewer where these are large, and a last one of those left."""
    kept: list[pa.Table] = []
    for piece in pieces:
        rows = pa.concat_tables([*kept, piece])
        most = min(size, _rows_within(GROUP_BYTES, len(rows), rows.nbytes))
        whole = len(rows) // most * most
        yield from (rows.slice(i, most) for i in range(0, whole, most))
        kept = [rows.slice(whole)]
    yield from (rows for rows in kept if len(rows))


def _combine(table: Table, sources: Sequence[Path]) -> pa.Table:
    """Return the sorted rows of a table, those that several parts of a run have being one."""
    import duckdb

    combined = table.combined or {}
    columns = (f"{combined[c]}({c}) AS {c}" if c in combined else c for c in arrow_schema(table.name).names)
    with duckdb.connect() as con:
        return con.sql(
            f"SELECT {', '.join(columns)} FROM {sql_parquet(sources)} GROUP BY ALL ORDER BY {', '.join(table.sort_key)}"
        ).to_arrow_table()
