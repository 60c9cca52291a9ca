"""Which of the folders named `run_id=…` are runs that can be read, and what is wrong with the others.

A damaged run must not keep the others from answering: the catalog leaves it out of the views and says so. What is known of a
run is kept in the catalog, with a signature of its files, so that each run is read once.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import xxhash

from warehouse.errors import StoreError, TracesError, first_line
from warehouse.storage import paths, run_list
from warehouse.storage.objects import AnyPath, ObjectPath, below
from warehouse.storage.strict_json import half_pair


class Surveyed(NamedTuple):
    """What is known of a run's folder."""

    manifest: str
    """A signature of run.json."""
    files: str
    """A signature of all its files."""
    tables: tuple[str, ...]
    """The files of its tables, below its folder."""
    bytes: int = 0
    """Their sizes together."""
    current: bool = True
    """Whether they have every column that this version of the schema names."""
    fault: str | None = None
    """Why it is left out of the views; None: it is not."""


Survey = dict[str, Surveyed]
"""What is known of each run, by the run's name."""


def survey(
    root: Path, known: Survey, every_file: bool = False, thorough: bool = False, copied: Collection[str] = ()
) -> Survey:
    """Find out which runs can be read.

    Args:
        root: The warehouse.
        known: What is known already; runs that have not changed are taken from here.
        every_file: Whether a run has changed as soon as one of its files has, as in `is_current`.
        thorough: Whether to check every run, and all values of its tables; else only file sizes and the tables' columns.
        copied: As in `is_current`.

    Returns:
        What is known of each run now.
    """
    runs = {}
    for name in run_list.run_names(root):
        run = known.get(name)
        if run is None or thorough or not _is_unchanged(run, root, name, every_file, copied):
            run = survey_run(root / f"{paths.RUN_PREFIX}{name}", thorough)
        runs[name] = run
    return runs


def is_current(root: Path, known: Survey, every_file: bool = False, copied: Collection[str] = ()) -> bool:
    """Return whether the runs below a root are those that are known.

    Args:
        root: The warehouse.
        known: What is known of its runs.
        copied: Runs whose tables the views read from copies, so that their own are not looked for.
        every_file: Whether to compare every file and not only manifests, which takes ten times as long. Every file of
            damaged runs is compared in any case: one may have been repaired.

    Returns:
        True where no run has come, gone or changed.
    """
    names = run_list.run_names(root)
    if len(names) != len(known) or not known.keys() >= set(names):
        return False
    return all(_is_unchanged(run, root, name, every_file, copied) for name, run in known.items())


def _is_unchanged(known: Surveyed, root: Path, name: str, every_file: bool, copied: Collection[str]) -> bool:
    """Return whether a run's folder is as it was: every file of it, or where the run is sound, its manifest.

    The files of a sound run's tables are looked for in any case: DuckDB would wait for a named pipe in the place of one.
    """
    folder = (
        f"{root}/{paths.RUN_PREFIX}{name}"  # a text: ten thousand of Path take longer than asking for the manifests
    )
    if every_file or known.fault:
        return known.files == _files_state(Path(folder))
    if known.manifest != file_state(f"{folder}/{paths.MANIFEST}"):
        return False
    return name in copied or all(Path(folder, file).is_file() for file in known.tables)


def _files_state(folder: AnyPath) -> str:
    if isinstance(folder, ObjectPath):  # no object is ever changed but the manifest, where it is put again
        return file_state(folder / paths.MANIFEST)
    stats = sorted(f"{below(p, folder)} {file_state(p)}" for p in folder.rglob("*"))
    return xxhash.xxh3_64_hexdigest(" ".join(stats).encode(errors="surrogateescape"))


def file_state(path: str | AnyPath) -> str:
    """Return a signature of a file, which changes when the file does, or is replaced; a text is a local path, and takes less time.

    Raises:
        StoreError: A store does not say whether there is such an object.
    """
    try:
        s = path.stat() if isinstance(path, ObjectPath) else os.stat(path)  # noqa: PTH116
    except StoreError:
        raise
    except OSError:
        return "none"
    return f"{s.st_mtime_ns:x}.{s.st_size:x}.{s.st_ino:x}"


def survey_run(folder: AnyPath, thorough: bool) -> Surveyed:
    """Find out whether a run can be read.

    Args:
        folder: The run's folder.
        thorough: Whether to check all values of its tables.

    Returns:
        What is known of it.

    Raises:
        StoreError: The store does not show it.
    """
    manifest, files = file_state(folder / paths.MANIFEST), _files_state(folder)
    try:
        return Surveyed(manifest, files, *_check_tables(folder, thorough))
    except StoreError:
        raise
    except (TracesError, OSError) as e:
        return Surveyed(manifest, files, (), fault=" ".join(str(e).split()))


def _check_tables(folder: AnyPath, thorough: bool) -> tuple[tuple[str, ...], int, bool]:
    """Return the files of a run's tables, their bytes, and whether they are of this version of the schema, after checking them all.

    Raises:
        TracesError: Something is wrong with them.
    """
    from warehouse.schema.tables import SCHEMA_VERSION
    from warehouse.storage.manifest import Manifest

    if half_pair(folder.name):
        raise TracesError(f"{folder!r} has a name that is not UTF-8. Rename it.")
    if folder.name == paths.RUN_PREFIX:
        raise TracesError(f"{folder} has no name of a run after '{paths.RUN_PREFIX}'. Rename it.")
    meta = Manifest.read(folder)
    unknown = {below(p, folder) for p in folder.glob("*/*.parquet")} - meta.file_infos.keys()
    if unknown:
        raise TracesError(f"{folder} has files that its manifest does not name: {', '.join(sorted(unknown))}.")
    tables = {path: table for path in meta.file_infos if (table := paths.table_of_file(path))}  # rows don't need blobs
    for path, table in tables.items():
        file, info = folder / path, meta.file_infos[path]
        if not file.is_file() or file.stat().st_size != info.bytes:
            raise TracesError(f"{file} is missing, cut short or altered.")
        _check_table(file, table, meta.schema_version, info.checksum if thorough else None)
    if thorough:
        _check_sql([folder / path for path in tables], folder / paths.MANIFEST)
    size = sum(meta.file_infos[path].bytes for path in tables)
    return tuple(sorted(tables)), size, meta.schema_version == SCHEMA_VERSION


def _check_table(file: AnyPath, table: str, version: int, checksum: str | None) -> None:
    """Check that a file has the columns of its table, and the checksum if one is given.

    Raises:
        TracesError: It has not.
        StoreError: The store does not show it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from warehouse.schema.arrow import arrow_schema
    from warehouse.schema.tables import SCHEMA_VERSION
    from warehouse.storage.files import file_checksum, parquet_source

    try:
        schema = pq.read_schema(parquet_source(file))
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as e:
        raise TracesError(f"{file} is damaged: {first_line(e)}") from None
    expected = arrow_schema(table)
    for column in schema:
        index = expected.get_field_index(column.name)
        if index < 0 or not expected.field(index).type.equals(column.type):
            raise TracesError(f"{file} has a column '{column.name}' ({column.type}) that table {table} does not have.")
    if version == SCHEMA_VERSION and (missing := set(expected.names) - set(schema.names)):
        raise TracesError(f"{file} has no column {', '.join(sorted(missing))}.")
    if checksum and file_checksum(file) != checksum:
        raise TracesError(f"{file} is altered: its checksum is not the manifest's.")


def _check_sql(tables: list[AnyPath], manifest: AnyPath) -> None:
    """Check that DuckDB can read every value of the tables, and the manifest, since one that it cannot read stops a view.

    Raises:
        TracesError: It cannot.
    """
    import duckdb

    from warehouse.catalog.manifest_sql import manifest_rows
    from warehouse.schema.quoting import sql_parquet
    from warehouse.storage.duckdb_session import connect

    queries = {path: f"FROM {sql_parquet([path])}" for path in tables} | {manifest: manifest_rows([manifest])}
    with connect(manifest) as con:
        for path, query in queries.items():
            try:
                con.sql(f"SELECT count(COLUMNS(*)) FROM ({query})").fetchall()
            except duckdb.Error as e:
                raise TracesError(f"{path} is damaged: {first_line(e)}") from None
