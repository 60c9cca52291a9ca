"""Check that a run's rows in vector tables are what its shards hold, and that the tables' files are what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from warehouse.activations.gather import KEYS, RowLocations
from warehouse.errors import TracesError
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.files import file_checksum
from warehouse.storage.objects import below
from warehouse.storage.trace_store import TraceStore
from warehouse.storage.vector_info import TableFiles
from warehouse.validation.check import expect
from warehouse.vectors import ingest
from warehouse.vectors.distances import to_array
from warehouse.vectors.model_folders import find_folder
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import VectorTableCache

_ROWS = 8192


def check_vectors(store: TraceStore) -> str | None:
    """Check the vector tables that hold rows of a run.

    Args:
        store: The run.

    Returns:
        What was looked at; None where no table holds rows of the run.

    Raises:
        ValidationFailure: For a table whose files were altered, or whose rows are not what the run stored. TracesError for a table of
            the run's model that cannot be read.
    """
    root = store.path.parent
    cache = VectorTableCache(root)
    tables, rows = cache.all(), 0
    with_rows = [t for t in tables if store.path.name in {paths.run_dir(root, run).name for run in t.live_runs()}]
    for (folder, _), damage in cache.damaged.items():
        if folder == find_folder(root, store.meta.model):
            raise damage
    for table in with_rows:
        with _lock_if_writable(table):
            _check_files(table)
            rows += _check_rows(table, store)
    names = ", ".join(t.info.sql_name for t in with_rows)
    return f"{rows:,} rows in {names}" if with_rows else None


@contextmanager
def _lock_if_writable(table: VectorTable) -> Iterator[None]:
    """Hold a table's lock meanwhile, unless the folder is one that we may only read."""
    try:
        lock = table.locked()
        lock.__enter__()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _check_files(table: VectorTable) -> None:
    path = paths.vector_files_path(table.root, table.info.model, table.info.name)
    try:
        known = TableFiles.read_from(path).files
    except FileNotFoundError:
        raise TracesError(f"{path} is missing: traces index rebuild makes the vector table again.") from None
    files = {below(p, table.path): p for p in table.path.rglob("*") if p.is_file()}
    for name in sorted(known.keys() ^ files.keys()):
        expect(
            False, f"{table.path / name} is {'missing' if name in known else 'not one of the files that were written'}"
        )
    for name, file in files.items():
        sound = file.stat().st_size == known[name].bytes and file_checksum(file) == known[name].checksum
        expect(sound, f"{file} is altered: traces index rebuild {table.info.sql_name} makes it again")


def _check_rows(table: VectorTable, store: TraceStore) -> int:
    """Compare every row that Lance reads with the shards, bit by bit, and return their number."""
    info, key = table.info, table.key
    run_id = paths.run_id_of(store.path)
    columns = [*KEYS, *([info.head_column] if info.head_column else []), "vector"]
    scan = table.lance.search().where(f"run_id = {sql_text(run_id)}").select(columns).limit(table.count)
    seen: list[np.ndarray] = []
    shards: dict[str, int] = {}  # numbers shards the same way in every batch
    for batch in scan.to_batches(_ROWS):
        rows = pa.Table.from_batches([batch])
        if not len(rows):
            continue
        locations = RowLocations.for_store(store, rows.select(list(KEYS)), key)
        stored = locations.gather(key)
        if info.head_column:
            heads = rows[info.head_column].to_numpy()
            stored = stored[np.arange(len(rows)), heads]
        expected = ingest.as_stored(stored, table.centre, info.dtype, run_id, info.name)
        differ = np.flatnonzero((to_array(rows["vector"]) != expected).any(axis=1))
        if len(differ):
            row = rows.slice(int(differ[0]), 1).to_pylist()[0]
            where = ", ".join(f"{name} {row[name]}" for name in KEYS[1:])
            expect(False, f"a row of {info.sql_name} is not what run '{run_id}' stored ({where})")
        shard = np.array([shards.setdefault(name, len(shards)) for _, name in locations.shards], np.int64)
        number = shard[locations.shard] << 40 | locations.row
        seen.append(number * (info.heads or 1) + (heads if info.head_column else 0))
    numbers = np.concatenate(seen) if seen else np.empty(0, np.int64)
    places = store.places(key)
    wanted = int((places.end - places.start).sum()) * (info.heads or 1)
    expect(
        len(numbers) == wanted == info.runs[run_id].rows,
        f"{info.sql_name} has {len(numbers)} rows of run '{run_id}', not {wanted}",
    )
    expect(len(np.unique(numbers)) == len(numbers), f"{info.sql_name} has a row of run '{run_id}' twice")
    return len(numbers)
