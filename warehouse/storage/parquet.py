"""Parquet files of a table: one for each shard while the run is staged, one sorted file once it is published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.tables import STORED
from warehouse.schema.types import Table
from warehouse.storage.files import parquet_source, sync_file
from warehouse.storage.objects import AnyPath
from warehouse.storage.parts import merge_parts, read_part, rows_within, sort_rows, write_sorted

ROW_GROUP = 122_880
"""Rows in a row group, at most: DuckDB's own unit of parallel scanning."""
GROUP_BYTES = 1 << 24
"""Bytes of its rows in memory, about, at most: long texts make it hold fewer."""
_PIECE = 1 << 15
"""Rows that are read at once where they are read one piece after the other."""

_LEVEL = 3
"""How hard zstd tries."""


def writing_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how rows of a schema are written.

    Values that repeat become codes into a dictionary, under zstd. Numbers with a fraction hardly ever do: zstd makes little less of them
    than snappy does, and takes several times as long to read.
    """
    leaves = {f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name: f.type for f in schema}
    repeat = [
        leaf for leaf, of in leaves.items() if not pa.types.is_floating(of.value_type if pa.types.is_list(of) else of)
    ]
    return {
        "use_dictionary": repeat,
        "compression": {leaf: "zstd" if leaf in repeat else "snappy" for leaf in leaves},
        "compression_level": dict.fromkeys(repeat, _LEVEL),
        "write_statistics": True,
    }


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


def coded_table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    """Return rows of a table with strings still as codes into a dictionary; `write_part` casts them to the table's own types."""
    return pa.table({c.name: columns[c.name] for c in STORED[name].file_columns})


def write_table_file(path: Path, rows: pa.Table) -> None:
    """Write rows of a table to one file, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **writing_options(rows.schema))
    sync_file(path)


def write_part(name: str, path: Path, rows: pa.Table) -> None:
    """Write rows of a table, in any order, to a part that `merge_table_parts` merges, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema, keys = arrow_schema(name), STORED[name].sort_key
    plain = rows.cast(schema).combine_chunks()  # Arrow sorts no dictionaries
    write_sorted(path, schema, [plain if _ascend(plain, keys) else sort_rows(plain, keys)])
    sync_file(path)


def write_part_of(name: str, source: AnyPath, path: Path, change: Callable[[pa.Table], pa.Table] | None = None) -> None:
    """Write the rows of a table's file to a part, a row group at a time where they are in order, durable on return.

    Args:
        name: The table.
        source: The file, of this version of the schema.
        path: The part.
        change: What is made of the rows, which leaves their keys as they are.
    """
    file, keys = pq.ParquetFile(parquet_source(source)), STORED[name].sort_key
    if not all_ascend([source], keys):
        rows = file.read()
        write_part(name, path, change(rows) if change is not None else rows)
        return
    tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(_PIECE, use_threads=False))
    changed = tables if change is None else map(change, tables)
    write_sorted(path, arrow_schema(name), (rows.cast(arrow_schema(name)) for rows in changed))
    sync_file(path)


def examples_hash(files: Iterable[AnyPath]) -> str:
    """Return the xxh3-128 over every example's id and text, in the order of the data, in hex.

    Args:
        files: Files of the table `examples`.

    Returns:
        32 hex digits: `DataInfo.hash`.
    """
    digest = xxhash.xxh3_128()
    with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as folder:
        for rows in merge_parts(_parts_by_place(files, Path(folder)), ["idx"]):
            for example_id, text in zip(rows["example_id"].to_pylist(), rows["text"].to_pylist(), strict=True):
                digest.update(f"{example_id}\x1f{text}\x1e".encode())
    pa.default_memory_pool().release_unused()
    return digest.hexdigest()


def _parts_by_place(files: Iterable[AnyPath], folder: Path) -> list[Path]:
    """Write the ids and texts of examples to parts, each in the order of the data."""
    parts: list[Path] = []
    for file in map(parquet_source, files):
        footer = pq.read_metadata(file)
        size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        at_once = min(_PIECE, max(1, GROUP_BYTES * footer.num_rows // max(1, size)))
        for batch in pq.ParquetFile(file).iter_batches(
            at_once, columns=["idx", "example_id", "text"], use_threads=False
        ):
            parts.append(folder / f"{len(parts)}.arrow")
            write_sorted(parts[-1], batch.schema, [sort_rows(pa.Table.from_batches([batch]), ["idx"])])
    return parts


def merge_table_parts(name: str, parts: Sequence[Path], target: Path) -> int:
    """Merge parts of a table into one file, sorted by the table's key.

    Args:
        name: The table.
        parts: The parts, as `write_part` leaves them.
        target: The file to write, durable on return.

    Returns:
        The number of rows.
    """
    table, schema, count = STORED[name], arrow_schema(name), 0
    # One sequence is looked for at a time, and a row group of the tensor index is read for it.
    size = ROW_GROUP // 4 if name == "tensors" else ROW_GROUP
    target.parent.mkdir(parents=True, exist_ok=True)
    pieces = merge_parts(parts, table.sort_key) if table.combined is None else iter([_combine(table, parts)])
    with pq.ParquetWriter(target, schema, **writing_options(schema)) as writer:
        for rows in _cut(pieces, size):
            count += len(rows)
            writer.write_table(rows.cast(schema))
    pa.default_memory_pool().release_unused()  # the next table takes it again, and what follows it does not need it
    sync_file(target)
    return count


def _cut(pieces: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Cut tables, one after the other, into tables of `size` rows, or of fewer where these are large, and a last one of those left."""
    kept: list[pa.Table] = []
    for piece in pieces:
        rows = pa.concat_tables([*kept, piece])
        most = min(size, rows_within(GROUP_BYTES, rows))
        whole = len(rows) // most * most
        yield from (rows.slice(i, most) for i in range(0, whole, most))
        kept = [rows.slice(whole)]
    yield from (rows for rows in kept if len(rows))


def _combine(table: Table, parts: Sequence[Path]) -> pa.Table:
    """Return the sorted rows of a table, those that several parts of a run have being one."""
    import duckdb

    combined = table.combined or {}
    columns = (f"{combined[c]}({c}) AS {c}" if c in combined else c for c in arrow_schema(table.name).names)
    with duckdb.connect() as con:
        con.register("rows", pa.concat_tables(read_part(part) for part in parts))
        return con.sql(
            f"SELECT {', '.join(columns)} FROM rows GROUP BY ALL ORDER BY {', '.join(table.sort_key)}"
        ).to_arrow_table()


def all_ascend(files: Iterable[AnyPath], keys: Sequence[str]) -> bool:
    """Tell whether every row of some files has a greater key than the row before it; then no two have the same."""
    before: pa.Table | None = None
    for file in files:
        for batch in pq.ParquetFile(parquet_source(file)).iter_batches(_PIECE, columns=list(keys), use_threads=False):
            rows = pa.Table.from_batches([batch])
            both = pa.concat_tables([before, rows]).combine_chunks() if before is not None else rows
            if not _ascend(both, keys):
                return False
            before = both.slice(len(both) - 1) if len(both) else before
    pa.default_memory_pool().release_unused()
    return True


def _ascend(rows: pa.Table, keys: Sequence[str]) -> bool:
    """Tell whether every row has a greater key than the one before it; NULL is greater than all else."""
    if len(rows) < 2:
        return True
    greater: Any = pa.scalar(False)
    for key in reversed(keys):
        column = rows[key].combine_chunks()
        a, b = column[:-1], column[1:]
        if column.null_count:
            more = pc.if_else(pc.is_null(a), False, pc.fill_null(pc.less(a, b), True))
            same = pc.if_else(pc.and_(pc.is_null(a), pc.is_null(b)), True, pc.fill_null(pc.equal(a, b), False))
        else:
            more, same = pc.less(a, b), pc.equal(a, b)
        greater = pc.or_(more, pc.and_(same, greater))
    return bool(pc.all(greater).as_py())
