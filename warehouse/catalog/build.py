"""Makes `warehouse.duckdb`, the file of views over all runs.

The file holds views and nothing else: one over each table's Parquet files (from `warehouse.schema.tables`), `runs` over the
manifests, and those in `sql/views/`. It is made under another name and moved into place, so that a reader sees the old one
or the new one; nobody ever holds it open for writing, since DuckDB would then lock every reader out.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import duckdb
import filelock

from warehouse.catalog.survey import Survey, file_state, from_json, survey, to_json
from warehouse.catalog.views import view_texts
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.files import delete, delete_stale_temporaries, temporary_beside

_STATE_VIEW = "catalog_state"
ATTACHED = "warehouse"
"""What the file of views is called in the database that it is attached to."""


def sound_infos(root: Path) -> list[Path]:
    """Lists the info files of the vector tables that can be read."""
    if not paths.vector_tables(root):
        return []
    from warehouse.storage import vector_info

    return vector_info.sound_infos(root)


def refresh(root: Path, known: Survey | None = None) -> Survey:
    """Makes `warehouse.duckdb` anew from the runs that are there and from `sql/views/`; returns what was found about the runs.
    `known`: what is known already; the catalog's own, if left out.
    """
    lock = paths.catalog_lock_path(root)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        delete_stale_temporaries(root / paths.STAGING)
        found = survey(root, read_state(root)[1] if known is None else known)
        scratch = temporary_beside(root / paths.STAGING / paths.CATALOG)
        scratch.mkdir()
        try:
            made = scratch / paths.CATALOG
            found = _write_catalog(made, root, found)
            made.replace(root / paths.CATALOG)
        finally:
            delete(scratch)
    return found


def _write_catalog(path: Path, root: Path, found: Survey) -> Survey:
    """Makes the file of views; returns what is known of the runs then."""
    if "?" in str(path.absolute()):  # DuckDB writes to no such place, though it reads from there
        with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as elsewhere:
            found = _write_catalog(Path(elsewhere) / path.name, root, found)
            shutil.copyfile(Path(elsewhere) / path.name, path)
        return found
    with duckdb.connect(str(path)) as con:
        return create_views(con, root, found)


def create_views(con: duckdb.DuckDBPyConnection, root: Path, found: Survey) -> Survey:
    """Makes the views in a database without any. Runs that DuckDB cannot read are left out; returns what is known then."""
    try:
        con.execute("BEGIN")
        _create_views(con, root, found)
    except duckdb.Error:
        con.execute("ROLLBACK")
        found = survey(root, found, thorough=True)
        con.execute("BEGIN")
        _create_views(con, root, found)
    con.execute("COMMIT")
    return found


def _create_views(con: duckdb.DuckDBPyConnection, root: Path, found: Survey) -> None:
    made = view_texts(root, found, sound_infos(root))
    for name, (query, comment, columns) in made.items():
        con.execute(f"CREATE VIEW {name} AS {query}")
        con.execute(f"COMMENT ON VIEW {name} IS {sql_text(comment)}")
        for column in columns:
            con.execute(f"COMMENT ON COLUMN {name}.{column.name} IS {sql_text(column.comment)}")
    con.execute(
        f"CREATE VIEW {_STATE_VIEW} AS SELECT {sql_text(current_state(root))} AS state, {sql_text(to_json(found))} AS runs"
    )
    con.execute(
        f"COMMENT ON VIEW {_STATE_VIEW} IS 'A hash of what these views were made from, and what is known of the runs'"
    )
    con.sql("SELECT count(*) FROM (FROM runs)").fetchall()


def attach(path: Path | str) -> duckdb.DuckDBPyConnection:
    """The file as it is now, read-only, or `:memory:`. Attached rather than connected to: a process that has connected to a file goes on
    getting that one for its path, long after another has been moved into its place.
    """
    con = duckdb.connect()
    con.execute(f"ATTACH {sql_text(str(path))} AS {ATTACHED} {'(READ_ONLY)' if isinstance(path, Path) else ''}")
    con.execute(f"USE {ATTACHED}")
    return con


def all_view_texts(root: Path) -> dict[str, str]:
    """The text of every view, as `traces sql --show NAME` prints it."""
    found = survey(root, read_state(root)[1])
    return {name: query for name, (query, _, _) in view_texts(root, found, sound_infos(root)).items()}


def current_state(root: Path) -> str:
    """A hash of what the views' texts depend on beside the runs: the root, the schema, `sql/views/` and the vector tables. The
    root's place on the disk is in it too, so that a catalog that was copied in is made anew, whatever its views say.
    """
    made = {name: query for name, (query, _, _) in view_texts(root, {}, ()).items()}
    infos = (paths.vector_info_path(root, *names) for names in paths.vector_tables(root))
    here = root.stat()
    made[""] = f"{here.st_dev} {here.st_ino}"
    made["vector_tables"] = " ".join(f"{path} {file_state(path)}" for path in infos)
    return hashlib.sha256(
        repr((str(root.absolute()), sorted(made.items()))).encode(errors="backslashreplace")
    ).hexdigest()[:16]


def read_state(root: Path) -> tuple[str, Survey]:
    """The catalog's state, empty where there is none of this version, and what it knows of the runs."""
    path = root / paths.CATALOG
    if not path.is_file():
        return "", {}
    try:
        with attach(path) as con:
            row = con.sql(f"SELECT state, runs FROM {_STATE_VIEW}").fetchone()
        return (row[0], from_json(row[1])) if row is not None else ("", {})
    except (duckdb.Error, ValueError, TypeError, AttributeError):  # a file of another version, or a damaged one
        return "", {}
