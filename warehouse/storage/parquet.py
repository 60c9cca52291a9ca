"""Parquet files of a table: one for each shard while the run is staged, one sorted file once it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_parquet
from warehouse.schema.tables import STORED
from warehouse.schema.types import Table
from warehouse.storage.files import parquet_source, sync_file
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    import duckdb

ROW_GROUP = 122_880
"""Rows in a row group: DuckDB's own unit of parallel scanning."""

_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "write_statistics": True}


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
    from warehouse.storage.duckdb_session import connect

    digest = xxhash.xxh3_128()
    files = list(files)
    with connect(files[0] if files else None, memory_limit="1GB") as con:
        answer = con.sql(f"SELECT example_id, text FROM {sql_parquet(files)} ORDER BY idx")
        while rows := answer.fetchmany(4096):
            for example_id, text in rows:
                digest.update(f"{example_id}\x1f{text}\x1e".encode())
    return digest.hexdigest()


def sorter(scratch: Path) -> duckdb.DuckDBPyConnection:
    """Open a database to sort rows in: in 1 GB of memory, and in the folder `scratch` where they don't fit."""
    import duckdb

    return duckdb.connect(config={"memory_limit": "1GB", "threads": 2, "temp_directory": str(scratch)})


def merge_table_files(name: str, sources: Sequence[Path], target: Path, con: duckdb.DuckDBPyConnection) -> int:
    """Merge files of a table into one, sorted by the table's key.

    DuckDB sorts and Arrow writes, since only Arrow's writer puts the columns' comments in the file.

    Args:
        name: The table.
        sources: The files to merge.
        target: The file to write, durable on return.
        con: What sorts: a `sorter`, which serves any number of tables.

    Returns:
        The number of rows.
    """
    schema = arrow_schema(name)
    size = (
        ROW_GROUP // 4 if name == "tensors" else ROW_GROUP
    )  # one sequence is looked for at a time, and a row group read for it
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, schema, **_OPTIONS) as writer:
        rows = con.sql(f"{_combined(STORED[name], sql_parquet(sources))} ORDER BY {', '.join(STORED[name].sort_key)}")
        count = 0
        for batch in rows.to_arrow_reader(ROW_GROUP):
            count += batch.num_rows
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=size)
    sync_file(target)
    return count


def _combined(table: Table, rows: str) -> str:
    """Write the query for a table's rows, those that several parts of a run have being one."""
    if table.combined is None:
        return f"SELECT * FROM {rows}"
    columns = (f"{table.combined[c]}({c}) AS {c}" if c in table.combined else c for c in arrow_schema(table.name).names)
    return f"SELECT {', '.join(columns)} FROM {rows} GROUP BY ALL"
