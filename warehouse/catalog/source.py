"""Where a catalog learns what runs there are: from the folders of a local warehouse, or from the list of one in an object store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import duckdb

from warehouse.catalog import compaction
from warehouse.catalog.groups import Groups, runs_in
from warehouse.catalog.listed import list_unlisted, listed_groups, listed_rows, listed_runs, relist, rows_sql
from warehouse.catalog.manifest_sql import manifest_rows
from warehouse.catalog.survey import Survey, file_state, is_current, survey, survey_run
from warehouse.catalog.views import RUNS_TABLE, file_lists
from warehouse.schema.quoting import sql_paths
from warehouse.storage import object_log, paths, run_list
from warehouse.storage.objects import AnyPath, ObjectPath


class Source(Protocol):
    """What a catalog asks of a root."""

    def runs(self, known: Survey, every_file: bool = False, groups: Groups | None = None) -> Survey:
        """Find out which runs can be read.

        Args:
            known: What is known already.
            every_file: Whether to look at every file; at every manifest, in an object store.
            groups: The groups of runs whose tables are compacted, so that their own need not be looked for.

        Returns:
            What is known of each run now.
        """

    def checked_runs(self, known: Survey) -> Survey:
        """Find out which runs can be read by reading every value of their tables; in an object store, by looking at their files."""

    def is_current(self, known: Survey, every_file: bool, groups: Groups) -> bool:
        """Return whether the runs are those that are known, where `state` is as it was."""

    def groups(self, kept: Groups) -> Groups:
        """Return the groups of runs whose tables are compacted, from those that the catalog keeps."""

    def insert_rows(self, con: duckdb.DuckDBPyConnection, runs: Survey) -> None:
        """Insert what `runs` shows of sound runs; raises duckdb.Error where DuckDB cannot read their files."""

    def place(self) -> Sequence[int | str]:
        """Return what tells the root from every other."""

    def state(self) -> Sequence[int | str]:
        """Return what changes with the files of the root that are of no single run."""


class _Folder:
    """A local folder: each folder of a run in it is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def runs(self, known: Survey, every_file: bool = False, groups: Groups | None = None) -> Survey:
        return survey(self.root, known, every_file, copied=runs_in(groups or {}))

    def checked_runs(self, known: Survey) -> Survey:
        return survey(self.root, known, thorough=True)

    def is_current(self, known: Survey, every_file: bool, groups: Groups) -> bool:
        return is_current(self.root, known, every_file, runs_in(groups))

    def groups(self, kept: Groups) -> Groups:
        return kept

    def insert_rows(self, con: duckdb.DuckDBPyConnection, runs: Survey) -> None:
        manifests = manifest_rows(paths.run_dir(self.root, name) / paths.MANIFEST for name in runs)
        con.execute(f"INSERT INTO {RUNS_TABLE} BY NAME {manifests}")
        for files in file_lists(runs, {}).values():
            found = sql_paths(self.root / file for file in files)
            con.execute(f"DESCRIBE FROM read_parquet({found}, hive_partitioning = false, union_by_name = true)")

    def place(self) -> Sequence[int | str]:
        folder = self.root.stat()  # no file that was copied in can tell it beforehand
        return folder.st_dev, folder.st_ino

    def state(self) -> Sequence[int | str]:
        infos = [paths.vector_info_path(self.root, *names) for names in paths.vector_tables(self.root)]
        return [f"{path} {file_state(path)}" for path in (*infos, *compaction.files(self.root))]


class _Listed:
    """A root in an object store: no run is asked for, since the list says what is in each."""

    def __init__(self, root: ObjectPath) -> None:
        self.root = root

    def runs(self, known: Survey, every_file: bool = False, groups: Groups | None = None) -> Survey:
        if every_file:
            relist(self.root)
        list_unlisted(self.root)
        return listed_runs(self.root, {} if every_file else known)

    def checked_runs(self, known: Survey) -> Survey:
        return {
            name: survey_run(paths.run_dir(self.root, name), thorough=False) for name in listed_runs(self.root, known)
        }

    def is_current(self, known: Survey, every_file: bool, groups: Groups) -> bool:
        return not every_file and not run_list.unlisted_runs(self.root)

    def groups(self, kept: Groups) -> Groups:
        return listed_groups(self.root)

    def insert_rows(self, con: duckdb.DuckDBPyConnection, runs: Survey) -> None:
        rows = listed_rows(self.root, list(runs))  # their files were looked at where they were written
        con.execute(f"INSERT INTO {RUNS_TABLE} BY NAME {rows_sql('?')}", [json.dumps(rows)])

    def place(self) -> Sequence[int | str]:
        return (str(self.root),)

    def state(self) -> Sequence[int | str]:
        listing = object_log.read(self.root)
        return listing.number, listing.id, *run_list.unlisted_runs(self.root)


def source(root: AnyPath) -> Source:
    """Return where the catalog of a root learns what runs there are."""
    return _Listed(root) if isinstance(root, ObjectPath) else _Folder(root)
