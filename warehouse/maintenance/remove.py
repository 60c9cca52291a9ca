"""Deleting a run: out of sight in one rename, then file by file. And deleting what processes left behind that died."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.files import delete, delete_stale_temporaries, release_lock, sync_folder
from warehouse.vectors.reconcile import remove_run_rows


@contextmanager
def locked_for_removal(root: Path, run_id: str) -> Iterator[None]:
    """Raises UsageError where a process is writing this run, or for what is not the name of one."""
    path = paths.lock_path(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageError(f"A process is capturing run '{run_id}' at this moment: stop it first.") from None
    try:
        yield
    finally:
        release_lock(lock)


def folders_of(root: Path, run_id: str) -> list[Path]:
    """The folders that `remove` deletes: the published run's and the staged one's, those that are there. A run's may be a
    symbolic link, even one that leads nowhere: then the link goes, and not what it leads to. Raises UsageError for what is not
    the name of a run.
    """
    folders = [paths.run_dir(root, run_id)]
    if paths.is_staged(root, run_id):
        folders.append(paths.staging_dir(root, run_id))
    return [p for p in folders if os.path.lexists(p)]


def remove_run(root: Path, run_id: str) -> None:
    """Deletes the published run, the staged one of that name, and their rows in vector tables. Call it under
    `locked_for_removal`.
    """
    folders, trash = folders_of(root, run_id), paths.trash_dir(root)
    trash.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        folder.rename(trash / uuid.uuid4().hex)
        sync_folder(folder.parent)
    empty_trash(root)
    remove_run_rows(root, run_id)


def empty_trash(root: Path) -> list[Path]:
    """Deletes what is out of sight, that of processes that died on the way included, and returns what it was."""
    trash = paths.trash_dir(root)
    if (root / paths.STAGING).is_symlink() or trash.is_symlink() or not trash.is_dir():
        return []
    gone = sorted(trash.iterdir())
    for path in gone:
        delete(path)
    return gone


def sweep_root(root: Path, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Deletes what processes that died have left below a warehouse root, and returns what it was. Unfinished captures stay: they
    can go on. `note` is told of what cannot be deleted.
    """
    folders = [root, *paths.prepared_dirs(root), *(paths.vectors_dir(root) / m for m in paths.vector_folders(root))]
    found = [path for folder in folders for path in delete_stale_temporaries(folder)]
    staging = root / paths.STAGING
    if staging.is_dir() and not staging.is_symlink():
        found += [*delete_stale_temporaries(staging), *_remove_dead_staging(root)]
    try:
        found += empty_trash(root)
    except OSError as e:
        note(f"warning: {paths.trash_dir(root)} cannot be emptied: {e}")
    return [str(path.relative_to(root)) for path in found]


def _remove_dead_staging(root: Path) -> Iterator[Path]:
    """Staging folders that no capture can go on from: of a run that is published, or without a journal."""
    for folder in sorted((root / paths.STAGING).iterdir()):
        run_id = folder.name
        if not paths.is_staged(root, run_id) or folder.is_symlink():
            continue
        published = (paths.run_dir(root, run_id) / paths.MANIFEST).is_file() and not paths.staged_run(folder).exists()
        if not published and paths.journal_path(folder).is_file():
            continue
        try:
            with locked_for_removal(root, run_id):
                delete(folder)
        except UsageError:  # somebody is at it
            continue
        yield folder
