"""Delete runs, and what killed processes left behind.

A run goes out of sight in one rename into a trash folder, and is then deleted file by file. `traces runs rm`, merges and
`traces refresh` call this.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from warehouse.catalog.listed import unlist_run
from warehouse.errors import UsageError, without_number
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete, delete_stale_temporaries, release_lock, sync_folder
from warehouse.storage.objects import AnyPath, ObjectPath, below, local_side
from warehouse.vectors.reconcile import remove_run_rows

_REMOVAL = b"removal "
"""How an object under `writers/` begins that is of no capture, but of a removal."""


@contextmanager
def locked_for_removal(root: AnyPath, run_id: str) -> Iterator[None]:
    """Hold a run's lock, so that no process writes it.

    Args:
        root: The warehouse.
        run_id: The run.

    Yields:
        Nothing.

    Raises:
        UsageError: Where a process is writing the run, or `run_id` cannot be a run's name.
    """
    path = paths.lock_path(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageError(f"A process is capturing run '{run_id}' now: stop it first.") from None
    try:
        yield
    finally:
        release_lock(lock)


def folders_of(root: AnyPath, run_id: str) -> list[AnyPath]:
    """Return the folders that `remove_run` deletes.

    Args:
        root: The warehouse.
        run_id: The run.

    Returns:
        The folders of the published run and of the staged one, as far as they exist. A run's folder may be a symbolic link, even a
        broken one: then the link is deleted, and not what it leads to.

    Raises:
        UsageError: For what cannot be a run's name.
    """
    folders: list[AnyPath] = [paths.run_dir(root, run_id)]
    if isinstance(root, ObjectPath):
        folders = [p for p in (*folders, paths.writer_path(root, run_id)) if p.exists()]
    if paths.is_staged(root, run_id):
        folders.append(paths.staging_dir(root, run_id))
    return [p for p in folders if isinstance(p, ObjectPath) or os.path.lexists(p)]


def remove_run(root: AnyPath, run_id: str) -> None:
    """Delete a published run, the staged one of that name, and their rows in vector tables.

    Args:
        root: The warehouse.
        run_id: The run, which the caller holds with `locked_for_removal`.
    """
    folders, trash = folders_of(root, run_id), paths.trash_dir(root)
    trash.mkdir(parents=True, exist_ok=True)
    if isinstance(root, ObjectPath):
        _remove_objects(root, run_id)
    for folder in folders:
        if isinstance(folder, Path):
            folder.rename(trash / uuid.uuid4().hex)
            sync_folder(folder.parent)
    empty_trash(root)
    remove_run_rows(root, run_id)


def _remove_objects(root: ObjectPath, run_id: str) -> None:
    """Delete what an object store has of a run."""
    claim = paths.writer_path(root, run_id)
    claim.write_bytes(_removal())  # a capture of that name that is alive elsewhere then cannot publish
    (paths.run_dir(root, run_id) / paths.MANIFEST).unlink()  # from here on it is no run
    unlist_run(root, run_id)
    delete(paths.run_dir(root, run_id))
    claim.unlink()


def is_half_removed(root: AnyPath, run_id: str) -> bool:
    """Return whether a removal of a run from an object store was killed: `remove_run` then does the rest."""
    claim = paths.writer_path(root, run_id)
    try:
        return isinstance(claim, ObjectPath) and claim.read_bytes().startswith(_REMOVAL)
    except FileNotFoundError:
        return False


def _removal() -> bytes:
    return _REMOVAL + uuid.uuid4().bytes


def empty_trash(root: AnyPath) -> list[Path]:
    """Delete what is in the trash, also what killed processes left there, and return the deleted paths."""
    trash = paths.trash_dir(root)
    if paths.staging_root(root).is_symlink() or trash.is_symlink() or not trash.is_dir():
        return []
    gone = sorted(trash.iterdir())
    for path in gone:
        delete(path)
    return gone


def sweep_root(root: AnyPath, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Delete what killed processes have left below a warehouse's root. Unfinished captures stay, since they can go on.

    Args:
        root: The warehouse.
        note: Called with what cannot be deleted.

    Returns:
        The deleted paths, relative to the root.
    """
    folders = [root, *paths.prepared_dirs(root), *(paths.vectors_dir(root) / m for m in paths.vector_folders(root))]
    deleted: list[AnyPath] = [path for folder in folders for path in delete_stale_temporaries(folder)]
    if isinstance(root, ObjectPath):
        deleted += _remove_dead_uploads(root)
    staging = paths.staging_root(root)
    if staging.is_dir() and not staging.is_symlink():
        deleted += [*delete_stale_temporaries(staging), *_remove_dead_staging(root)]
    try:
        deleted += empty_trash(root)
    except OSError as e:
        note(f"warning: {paths.trash_dir(root)} cannot be emptied: {without_number(e)}")
    return [below(path, root if isinstance(path, ObjectPath) else local_side(root)) for path in deleted]


def _remove_dead_uploads(root: ObjectPath) -> Iterator[ObjectPath]:
    """Finish removals that were killed, and delete what captures have left that let go of their names; yield the runs' folders."""
    folders = {paths.run_id_of(p) for p in root.iterdir() if p.name.startswith(paths.RUN_PREFIX)}
    claimed = {p.name.removesuffix(".json") for p in paths.writers_dir(root).iterdir()}
    for run_id in sorted(claimed | folders.difference(run_list.published_runs(root))):
        claim = paths.writer_path(root, run_id)
        assert isinstance(claim, ObjectPath)
        if not claim.put_new(_removal()) and not is_half_removed(root, run_id):
            if run_list.is_published(root, run_id):
                claim.unlink()  # it was killed just after it had published
        elif run_list.is_published(root, run_id):
            if run_id not in claimed:
                claim.unlink()
        else:
            _remove_objects(root, run_id)
            if run_id in folders:
                yield root / f"{paths.RUN_PREFIX}{run_id}"


def _remove_dead_staging(root: AnyPath) -> Iterator[Path]:
    """Delete staging folders that no capture can resume, and yield them: those of published runs, or without a journal."""
    for folder in sorted(paths.staging_root(root).iterdir()):
        run_id = folder.name
        if not paths.is_staged(root, run_id) or folder.is_symlink():
            continue
        published = run_list.is_published(root, run_id) and not paths.staged_run(folder).exists()
        if not published and paths.journal_path(folder).is_file():
            continue
        try:
            with locked_for_removal(root, run_id):
                delete(folder)
        except UsageError:  # a process is writing it
            continue
        yield folder
