"""Deleting a run: out of sight in one rename, then file by file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from warehouse import layout
from warehouse.errors import UsageError
from warehouse.vectors.fill import forget


@contextmanager
def locked_for_removal(root: Path, run_id: str) -> Iterator[None]:
    """Raises UsageError where a process is writing this run."""
    (root / layout.STAGING).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(layout.lock_path(root, run_id))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageError(f"A process is capturing run '{run_id}' at this moment: stop it first.") from None
    try:
        yield
    finally:
        lock.release()


def remove(root: Path, run_id: str) -> None:
    """Deletes the published run, the staged one of that name, and their rows in vector tables. Call it under
    `locked_for_removal`."""
    for folder in (layout.run_dir(root, run_id), layout.staging_dir(root, run_id)):
        if folder.is_dir():
            trash = layout.trash_dir(root, run_id)
            folder.rename(trash)
            shutil.rmtree(trash)
    forget(root, run_id)
