"""Which of the folders named `run_id=…` are runs that can be read, and what is wrong with the others.

A run that is damaged must not keep the others from answering: the catalog leaves it out of the views and says so. What is
found about a run is kept in the catalog, under a signature of its files, so that a run is looked at once.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path

import xxhash

from warehouse.errors import TracesError, first_line
from warehouse.storage import paths, strict_json
from warehouse.storage.strict_json import half_pair


@dataclass(frozen=True)
class Surveyed:
    """What is known of a run's folder."""

    manifest: str
    """Changes with run.json."""
    files: str
    """Changes with any of its files."""
    tables: tuple[str, ...]
    """Those that it has files of."""
    fault: str | None = None
    """Why it is left out of the views; None: it is not."""


Survey = dict[str, Surveyed]
"""By the run's name."""


def survey(root: Path, known: Survey, thorough: bool = False) -> Survey:
    """Looks at every run whose files are not those of `known`: at their sizes, and at the columns of tables. Where `thorough`, at
    every run, and at all that its tables hold.
    """
    found = {}
    for folder in paths.run_folders(root):
        before = known.get(paths.run_id_of(folder))
        as_before = before is not None and not thorough and before.files == _files_state(folder)
        found[paths.run_id_of(folder)] = before if before and as_before else _survey_run(folder, thorough)
    return found


def is_current(root: Path, known: Survey, every_file: bool = False) -> bool:
    """Whether the runs below `root` are those of `known`: by their manifests, or by every file, which takes ten times as long. Of
    runs that are damaged it is every file anyway: one may have been put right.
    """
    folders = {paths.run_id_of(folder): folder for folder in paths.run_folders(root)}
    if folders.keys() != known.keys():
        return False
    return all(
        s.files == _files_state(folders[name])
        if every_file or s.fault
        else s.manifest == file_state(folders[name] / paths.MANIFEST)
        for name, s in known.items()
    )


def to_json(found: Survey) -> str:
    return json.dumps({name: astuple(x) for name, x in found.items()})


def from_json(text: str) -> Survey:
    return {
        name: Surveyed(m, f, tuple(tables), fault) for name, (m, f, tables, fault) in strict_json.parse(text).items()
    }


def _files_state(folder: Path) -> str:
    stats = sorted(f"{p.relative_to(folder)} {file_state(p)}" for p in folder.rglob("*"))
    return xxhash.xxh3_64_hexdigest(" ".join(stats).encode(errors="surrogateescape"))


def file_state(path: Path) -> str:
    """Changes when a file does, or is replaced."""
    try:
        s = path.stat()
    except OSError:
        return "none"
    return f"{s.st_mtime_ns:x}.{s.st_size:x}.{s.st_ino:x}"


def _survey_run(folder: Path, thorough: bool) -> Surveyed:
    fault: str | None = None
    tables: tuple[str, ...] = ()
    try:
        tables = _check_tables(folder, thorough)
    except (TracesError, OSError) as e:
        fault = " ".join(str(e).split())
    return Surveyed(file_state(folder / paths.MANIFEST), _files_state(folder), tables, fault)


def _check_tables(folder: Path, thorough: bool) -> tuple[str, ...]:
    """The tables of a run. Raises TracesError for one that cannot be read."""
    from warehouse.storage.manifest import Manifest

    if half_pair(folder.name):
        raise TracesError(f"{folder!r} has a name that is not UTF-8. Rename it.")
    if folder.name == paths.RUN_PREFIX:
        raise TracesError(f"{folder} has no name of a run after '{paths.RUN_PREFIX}'. Rename it.")
    meta = Manifest.read(folder)
    unknown = {p.relative_to(folder).as_posix() for p in folder.glob("*/*.parquet")} - meta.file_infos.keys()
    if unknown:
        raise TracesError(f"{folder} has files that its manifest does not tell of: {', '.join(sorted(unknown))}.")
    tables = {path: table for path in meta.file_infos if (table := paths.table_of_file(path))}  # rows don't need blobs
    for path, table in tables.items():
        file, info = folder / path, meta.file_infos[path]
        if not file.is_file() or file.stat().st_size != info.bytes:
            raise TracesError(f"{file} is missing, cut short or altered.")
        _check_table(file, table, meta.schema_version, info.checksum if thorough else None)
    if thorough:
        _check_sql([folder / path for path in tables], folder / paths.MANIFEST)
    return tuple(sorted(set(tables.values())))


def _check_table(file: Path, table: str, version: int, checksum: str | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from warehouse.schema.arrow import arrow_schema
    from warehouse.schema.tables import SCHEMA_VERSION
    from warehouse.storage.files import file_checksum

    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as e:
        raise TracesError(f"{file} is damaged: {first_line(e)}") from None
    expected = arrow_schema(table)
    for column in schema:
        at = expected.get_field_index(column.name)
        if at < 0 or not expected.field(at).type.equals(column.type):
            raise TracesError(f"{file} has a column '{column.name}' ({column.type}) that table {table} has not.")
    if version == SCHEMA_VERSION and (missing := set(expected.names) - set(schema.names)):
        raise TracesError(f"{file} has no column {', '.join(sorted(missing))}.")
    if checksum and file_checksum(file) != checksum:
        raise TracesError(f"{file} is altered: its checksum is not the manifest's.")


def _check_sql(tables: list[Path], manifest: Path) -> None:
    """Has DuckDB read every value of the tables, and the manifest: what it cannot read stops a view."""
    import duckdb

    from warehouse.catalog.file_sql import manifests, parquet_files

    queries = {path: f"FROM {parquet_files([path])}" for path in tables} | {manifest: manifests([manifest])}
    with duckdb.connect() as con:
        for path, query in queries.items():
            try:
                con.sql(f"SELECT count(COLUMNS(*)) FROM ({query})").fetchall()
            except duckdb.Error as e:
                raise TracesError(f"{path} is damaged: {first_line(e)}") from None
