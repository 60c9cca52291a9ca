"""The lists of files that hold the tables' rows, for engines that read Parquet themselves."""

from __future__ import annotations

from typing import NamedTuple

from warehouse.catalog.build import read_groups, read_known
from warehouse.catalog.groups import runs_in, valid_groups
from warehouse.catalog.source import source
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath


class TableFiles(NamedTuple):
    """The files of a table, by their paths below the root. Files of older runs may lack nullable columns."""

    of_runs: dict[str, list[str]]
    """Run → its files, in its own folder; they have no column `run_id`."""
    compacted: list[str]
    """Files with the rows of many runs, sorted by their column `run_id`; these runs' own files are not in `of_runs`."""


def table_files(root: AnyPath) -> dict[str, TableFiles]:
    """List the files of every stored table, as the catalog knows them; damaged runs have none.

    Args:
        root: The warehouse, whose catalog is up to date.

    Returns:
        The files by table.
    """
    known = source(root).runs(read_known(root))
    groups = valid_groups(read_groups(root), known)
    tables = {name: TableFiles({}, []) for name in STORED}
    compacted = runs_in(groups)
    for run_id, run in known.items():
        for file in run.tables if run_id not in compacted else ():
            tables[file.partition("/")[0]].of_runs.setdefault(run_id, []).append(f"{paths.RUN_PREFIX}{run_id}/{file}")
    for name, group in groups.items():
        for table in group.checksums:
            tables[table].compacted.append(paths.compacted_file(name, table))
    return tables
