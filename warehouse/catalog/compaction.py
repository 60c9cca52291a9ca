"""Compaction: the tables of many small runs, copied into one file a table, so that a query asks the file system for a few files only.

In: what is known of the runs. Out: groups, each a folder `compacted/<name>/` with a Parquet file a table, whose rows are those of its
runs, in order, beside their `run_id`. The views read a group in the place of its runs' own files. A group is a copy that can be made
again at any time, and counts only as long as every one of its runs is as it was: a run that changes or goes takes its group with it.

Readers are not disturbed. A group has a name that no other content ever has, and its folder stays for an hour after the last catalog
that reads it was replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

import duckdb

from warehouse.catalog.groups import Group, Groups, runs_in, state_of, valid_groups
from warehouse.catalog.survey import Survey
from warehouse.catalog.views import rows_with_run_id
from warehouse.schema.quoting import sql_path, sql_paths
from warehouse.schema.tables import TABLES
from warehouse.storage import object_log, paths
from warehouse.storage.duckdb_session import connect
from warehouse.storage.files import delete, file_checksum, sync_file, sync_folder
from warehouse.storage.objects import AnyPath, ObjectPath

RUNS = 100
"""Runs in a group."""
_SMALL = 1 << 20
"""Bytes in the tables of a run that is compacted, at most: what is copied is little beside the run's tensors."""
_KEPT = 3600
"""Seconds for which the files of a group stay when no catalog reads it any more."""
_UNUSED = "unused"
"""A file in the folder of such a group, which says since when."""


def compact(root: AnyPath, scratch: Path, groups: Groups, known: Survey, check: bool, every_run: bool) -> Groups:
    """Compact the small runs that are in no group, once there are enough of them.

    Args:
        root: The warehouse.
        scratch: An empty folder on the same disk, to write in.
        groups: The groups that there are.
        known: What is known of the runs.
        check: Whether to compare the groups' files with their checksums, and make those anew that were altered.
        every_run: Whether to compact small runs that are too few for a group, too: with those of groups that are not full.

    Returns:
        The groups that hold now.
    """
    if isinstance(root, Path):
        if paths.compacted_dir(root).is_symlink():
            return {}  # the warehouse writes into folders of its own
        _delete_unused(root)
    groups = {name: group for name, group in valid_groups(groups, known).items() if _is_whole(root, name, group, check)}
    small = _not_compacted(groups, known)
    if every_run and small:
        groups = {name: group for name, group in groups.items() if len(group.runs) >= RUNS}
        small = _not_compacted(groups, known)
    if every_run and isinstance(root, ObjectPath):
        _drop_others(root, groups)
    # Who asks for copies is told why there are none.
    passing = (duckdb.Error,) if every_run else (duckdb.Error, OSError)
    with contextlib.suppress(*passing):  # the views then read each run's own files, as they did
        for first in range(0, len(small) - (1 if every_run else RUNS - 1), RUNS):
            name, group = _write_group(root, scratch, {r: known[r] for r in small[first : first + RUNS]})
            groups[name] = group
    return groups


def _not_compacted(groups: Groups, known: Survey) -> list[str]:
    """Return the small runs that are in no group."""
    compacted = runs_in(groups)
    return [
        run_id
        for run_id, run in known.items()
        if run_id not in compacted and run.tables and run.current and run.bytes <= _SMALL
    ]


def _drop_others(root: ObjectPath, valid: Groups) -> None:
    """Take all other groups off the list, and delete the objects of those that went off it long ago."""
    now, kept = time.time(), paths.compacted_dir(root)
    listed = object_log.read(root).sections[object_log.GROUPS]
    if gone := listed.keys() - valid.keys():
        object_log.append(root, {object_log.GROUPS: dict.fromkeys(gone)})
        for name in gone:
            (root / paths.compacted_group(name) / _UNUSED).write_bytes(b"")
    for folder in kept.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if folder.name not in valid and now - (folder / _UNUSED).stat().st_mtime > _KEPT:
                delete(folder)


def mark_unused(root: AnyPath, groups: Groups) -> None:
    """Mark the folders of groups that the catalog no longer reads, so that they are deleted later."""
    if isinstance(root, ObjectPath):
        return  # others may read them still, whose catalogs are not known here
    for folder in _folders(root):
        mark = folder / _UNUSED
        if folder.name in groups:
            mark.unlink(missing_ok=True)
        elif not os.path.lexists(mark):
            mark.touch()


def files(root: AnyPath) -> list[Path]:
    """Return the files of all groups of a local warehouse, sorted."""
    return sorted(file for folder in _folders(root) for file in folder.glob("*.parquet"))


def _write_group(root: AnyPath, scratch: Path, runs: Survey) -> tuple[str, Group]:
    """Copy the tables of runs into a folder of a new group."""
    state = name = state_of(runs)
    if isinstance(root, ObjectPath):
        name = f"{state}-{uuid.uuid4().hex[:8]}"  # another writer may make the same group now
    sources: dict[str, list[AnyPath]] = {}
    for run_id, run in runs.items():
        for file in run.tables:
            sources.setdefault(file.partition("/")[0], []).append(paths.run_dir(root, run_id) / file)
    written = scratch / name
    written.mkdir()
    with connect(root) as con:
        for table, of_runs in sources.items():
            target = written / f"{table}.parquet"
            rows = rows_with_run_id(TABLES[table], sql_paths(of_runs))
            con.execute(f"COPY ({rows}) TO {sql_path(target)} (FORMAT parquet, COMPRESSION zstd)")
            sync_file(target)
    group = Group(tuple(runs), state, {table: file_checksum(written / f"{table}.parquet") for table in sources})
    if isinstance(root, ObjectPath):
        for copy in written.iterdir():
            (root / paths.compacted_group(name) / copy.name).upload(copy)
        object_log.append(root, {object_log.GROUPS: {name: vars(group)}})
        return name, group
    sync_folder(written)
    folder = root / paths.compacted_group(name)
    delete(folder)
    folder.parent.mkdir(exist_ok=True)
    written.rename(str(folder))
    sync_folder(folder.parent)
    return name, group


def _is_whole(root: AnyPath, name: str, group: Group, check: bool) -> bool:
    """Return whether the files of a group are there, and are what was written if that is to be checked."""
    files = {table: root / paths.compacted_file(name, table) for table in group.checksums}
    if isinstance(root, ObjectPath) and not check:
        return True
    if not all(file.is_file() for file in files.values()):
        return False
    return not check or all(file_checksum(file) == group.checksums[table] for table, file in files.items())


def _delete_unused(root: AnyPath) -> None:
    """Delete the folders that no catalog has read for long."""
    for folder in _folders(root):
        with contextlib.suppress(OSError):
            if time.time() - (folder / _UNUSED).lstat().st_mtime > _KEPT:
                delete(folder)


def _folders(root: AnyPath) -> list[Path]:
    folder = paths.compacted_dir(root)
    if not isinstance(folder, Path) or folder.is_symlink() or not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()]
