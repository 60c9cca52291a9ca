"""The making of `warehouse.duckdb`, the file of views over all runs.

The file holds views, the lists of files that they read, and what the manifests say of each run: a view over each table's Parquet
files (from `warehouse.schema.tables`), `runs` over what the manifests say, and those in `sql/views/`. It is made under another name and moved into place, so that a reader sees the old one
or the new one. No process ever holds it open for writing, since DuckDB would then lock every reader out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import filelock

from warehouse.catalog import compaction, kept, place
from warehouse.catalog.groups import Groups, valid_groups
from warehouse.catalog.place import STATE_VIEW
from warehouse.catalog.source import source
from warehouse.catalog.survey import Survey
from warehouse.catalog.views import View, file_lists, view_texts
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.duckdb_session import connect
from warehouse.storage.files import delete, delete_stale_temporaries, temporary_beside
from warehouse.storage.objects import AnyPath

Known = TypeVar("Known")

ATTACHED = "warehouse"
"""The name of the file of views in the database that it is attached to."""
_STATE_COLUMNS = {
    "state": "A hash of what the texts of the views depend on, and of the folder",
    "basis": "A hash of the folder, of the macros that lead to it, and of the texts that the views have without runs",
    "texts": "A hash of the text and the comments of each view, as JSON",
}


def _vector_infos(root: AnyPath) -> list[AnyPath]:
    """Return the info files of the vector tables that can be read."""
    if not paths.vector_tables(root):
        return []
    from warehouse.storage import vector_info

    return vector_info.sound_infos(root)


def refresh(root: AnyPath, known: Survey | None = None, every_file: bool = False, compact_all: bool = False) -> Survey:
    """Rebuild `warehouse.duckdb` from the runs below a root and from `sql/views/`.

    Args:
        root: The warehouse.
        known: What is known of the runs; what the catalog itself knows where it is left out.
        every_file: Whether to notice files that have changed beside an unchanged manifest, too.
        compact_all: Whether to compact small runs even where they are too few for a group of the usual size.

    Returns:
        What is known of the runs now.
    """
    lock = paths.catalog_lock_path(root)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        delete_stale_temporaries(paths.staging_root(root))
        scratch = temporary_beside(paths.staging_root(root) / paths.CATALOG)
        scratch.mkdir()
        try:
            file = scratch / paths.CATALOG
            runs, groups = _write_catalog(file, root, known, every_file, compact_all)
            file.replace(paths.catalog_path(root))
            compaction.mark_unused(root, groups)
        finally:
            delete(scratch)
    return runs


def _write_catalog(
    path: Path, root: AnyPath, known: Survey | None, every_file: bool, compact_all: bool
) -> tuple[Survey, Groups]:
    """Write the file of views, from the one that there is where its views stay as they are.

    Returns:
        What is known of the runs, and the groups whose compacted tables the views read.
    """
    if "?" in str(path.absolute()):  # DuckDB reads from such a path, but does not write to it
        with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as elsewhere:
            made = _write_catalog(Path(elsewhere) / path.name, root, known, every_file, compact_all)
            shutil.copyfile(Path(elsewhere) / path.name, path)
        return made
    con, before = _copy_catalog(path, root)
    with con:
        there, kept_groups = source(root), kept.read_groups(con)
        known = there.runs(before if known is None else known, every_file, kept_groups)
        groups = there.groups(kept_groups)
        groups = compaction.compact(root, path.parent, groups, known, every_file, compact_all)
        shown = create_views(con, root, known, groups, before)
        return shown, groups if shown is known else valid_groups(groups, shown)


def _copy_catalog(path: Path, root: AnyPath) -> tuple[duckdb.DuckDBPyConnection, Survey]:
    """Copy the root's file of views, to be written on.

    Returns:
        A connection to the copy, which is empty where there is no such file, or none of this software for this folder; and what
        the file knows of the runs.
    """
    known: Survey = {}
    if paths.catalog_path(root).is_file():
        shutil.copyfile(paths.catalog_path(root), path)
        with contextlib.suppress(duckdb.Error):  # a file that is damaged, or is no database
            con = attach(str(path), root)
            known = kept.read_runs(con)
            if _made_from(con, "basis") == (_basis(root),):
                return con, known
            con.close()
        path.unlink()
    return attach(str(path), root), known


def _views(root: AnyPath, known: Survey, groups: Groups) -> dict[str, View]:
    """Return the views over the runs that are known."""
    return view_texts(root, known, groups, _vector_infos(root))


def _hash(texts: Any) -> str:
    """Return a hash of texts."""
    return hashlib.sha256(repr(texts).encode(errors="backslashreplace")).hexdigest()[:16]


def create_views(
    con: duckdb.DuckDBPyConnection,
    root: AnyPath,
    known: Survey,
    groups: Groups | None = None,
    before: Survey | None = None,
) -> Survey:
    """Create the views in a database that has none or those of this root, and leave out the runs that DuckDB cannot read.

    Views and what is known of runs stay where the database has them already.

    Args:
        con: A connection to the database.
        root: The warehouse.
        known: What is known of its runs.
        groups: The groups of them whose tables are compacted.
        before: What the views of the database know of runs; read from there where it is left out.

    Returns:
        What is known of the runs then.
    """
    try:
        con.execute("BEGIN")
        _create_views(con, root, known, groups or {}, before)
    except duckdb.Error:
        con.execute("ROLLBACK")
        known = source(root).checked_runs(known)
        con.execute("BEGIN")
        _create_views(con, root, known, valid_groups(groups or {}, known), before)
    con.execute("COMMIT")
    return known


def _create_views(
    con: duckdb.DuckDBPyConnection, root: AnyPath, known: Survey, groups: Groups, before: Survey | None
) -> None:
    """Create the views, the macros that they call, the rows of `runs`, and a view that holds what they were made from."""
    made = _made_from(con, "texts")
    kept_texts = json.loads(made[0]) if made is not None else {}
    # By this view a catalog is known that was moved, and this one is about to be.
    con.execute(f"DROP VIEW IF EXISTS {STATE_VIEW}")
    kept.create_tables(con)
    _note_runs(con, root, kept.read_runs(con) if before is None or made is None else before, known)
    kept.write_groups(con, groups)
    lists = {head: place.files(files) for head, files in file_lists(known, groups).items()}
    for head, text in (place.macros(root) | lists).items():
        con.execute(f"CREATE OR REPLACE MACRO {head} AS {text}")
    views = _views(root, known, groups)
    texts, described = {name: _hash(view) for name, view in views.items()}, {}
    for name, view in views.items():
        if kept_texts.get(name) != texts[name]:
            con.execute(f"CREATE OR REPLACE VIEW {name} AS {view.query}")
            described[name] = view
    basis = _basis(root)
    values = {"state": _state(root, basis), "basis": basis, "texts": json.dumps(texts)}
    state = f"SELECT {', '.join(f'{sql_text(value)} AS {name}' for name, value in values.items())}"
    con.execute(f"CREATE VIEW {STATE_VIEW} AS {state}")
    described[STATE_VIEW] = View(state, place.made_in(root), _STATE_COLUMNS)
    comments = {f"VIEW {name}": view.comment for name, view in described.items()}
    comments |= {f"COLUMN {name}.{c}": text for name, view in described.items() for c, text in view.columns.items()}
    con.execute("; ".join(f"COMMENT ON {thing} IS {sql_text(text)}" for thing, text in comments.items()))


def _note_runs(con: duckdb.DuckDBPyConnection, root: AnyPath, before: Survey, known: Survey) -> None:
    """Write down what is known of runs, and have DuckDB look at the files that are new; duckdb.Error over those that it cannot read."""
    changed = {name: run for name, run in known.items() if before.get(name) != run}
    kept.write_runs(con, [name for name in before if name in changed or name not in known], changed)
    if sound := {name: run for name, run in changed.items() if run.fault is None}:
        source(root).insert_rows(con, sound)


def attach(path: Path | str, root: AnyPath | None = None) -> duckdb.DuckDBPyConnection:
    """Open a file of views as it is now, read-only, or a new database in a file or in memory.

    The file is attached, not connected to: a process that has connected to a file goes on getting that one for its path, long
    after another has been moved into its place. Its views then read the folder that they were made for.

    Args:
        path: The file, to be read; or, as a str, one to be written, or `:memory:`.
        root: The warehouse, where its files are to be read.

    Returns:
        A connection, whose views need no prefix.
    """
    con = connect(root)
    con.execute(f"ATTACH {sql_text(str(path))} AS {ATTACHED} {'(READ_ONLY)' if isinstance(path, Path) else ''}")
    con.execute(f"USE {ATTACHED}")
    return con


def all_view_texts(root: AnyPath) -> dict[str, str]:
    """Return the text of every view by its name, as `traces sql --show NAME` prints it."""
    known = source(root).runs(read_known(root))
    groups = valid_groups(read_groups(root), known)
    return {name: view.query for name, view in _views(root, known, groups).items()}


def _basis(root: AnyPath) -> str:
    """Return a hash of what views are kept by: the software that wrote them, and the root's path and place."""
    texts = {name: str(view) for name, view in view_texts(root, {}, {}, ()).items()}
    return _hash((*source(root).place(), place.macros(root), sorted(texts.items()), (*_STATE_COLUMNS, kept.FORM)))


def current_state(root: AnyPath) -> str:
    """Return a hash of what the views' texts depend on beside the runs.

    Returns:
        16 hex digits over the root, the schema, `sql/views/` and the vector tables. The root's place on the disk is in it
        too, so that a catalog that was copied in is rebuilt, whatever its views say.
    """
    return _state(root, _basis(root))


def _state(root: AnyPath, basis: str) -> str:
    """Return `current_state` from what `_basis` says."""
    return _hash((basis, *source(root).state()))


def open_current(root: AnyPath, every_file: bool = False) -> tuple[duckdb.DuckDBPyConnection | None, Survey]:
    """Open a root's file of views where they are what would be made now.

    Args:
        root: The warehouse.
        every_file: Whether to notice files that have changed beside an unchanged manifest, too.

    Returns:
        A connection, None where the file is missing, damaged or out of date; and what it knows of the runs.
    """
    path = paths.catalog_path(root)
    if not path.is_file():
        return None, {}
    try:
        con = attach(path, root)
    except duckdb.Error:
        return None, {}
    state = _made_from(con, "state")
    known = kept.read_runs(con)
    if state == (current_state(root),) and source(root).is_current(known, every_file, kept.read_groups(con)):
        return con, known
    con.close()
    return None, known


def read_known(root: AnyPath) -> Survey:
    """Return what the catalog knows of the runs; nothing where there is none of this version."""
    return _read(root, kept.read_runs)


def read_groups(root: AnyPath) -> Groups:
    """Return the groups whose compacted tables the views read; none where there is no catalog of this version."""
    return _read(root, kept.read_groups)


def _read(root: AnyPath, part: Callable[[duckdb.DuckDBPyConnection], dict[str, Known]]) -> dict[str, Known]:
    """Return a part of what the catalog keeps; nothing where there is no catalog that can be opened."""
    path = paths.catalog_path(root)
    try:
        with attach(path if path.is_file() else ":memory:") as con:
            return part(con)
    except duckdb.Error:
        return {}


def _made_from(con: duckdb.DuckDBPyConnection, columns: str) -> tuple[str, ...] | None:
    """Return columns of what the views of a connection were made from; None where it has none of this version."""
    try:
        return con.sql(f"SELECT {columns} FROM {STATE_VIEW}").fetchone()
    except duckdb.Error:
        return None
