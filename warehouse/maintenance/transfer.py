"""Copy whole runs between warehouses, in folders or in object stores: `traces runs push` and `traces runs pull`.

A run is checked where it is on this machine's disk: before it leaves, or when it has come. It is published in the other warehouse as
a capture is, so that nobody sees half of it; a copy that was interrupted goes on with the files that are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from warehouse.catalog import build
from warehouse.catalog.listed import list_run
from warehouse.errors import UsageError
from warehouse.maintenance.remove import locked_for_removal
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete, link_or_copy, sync_folder
from warehouse.storage.manifest import Manifest, folder_manifest_hash, manifest_hash
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.storage.run_upload import RunUpload

Check = Callable[[Path], None]
"""Raises CorruptRunError where a run's folder is not as it was written."""
Report = Callable[[int], None]
"""Called with the bytes of each file that has been copied."""


def copy_run(source: AnyPath, target: AnyPath, run_id: str, check: Check, report: Report = lambda _: None) -> bool:
    """Copy a run to another warehouse.

    Args:
        source: The warehouse that has it.
        target: The warehouse that is to have it; a folder is made.
        run_id: The run.
        check: Checks a run's folder.
        report: Called as files are copied.

    Returns:
        False where the other warehouse had the same run already.

    Raises:
        UsageError: Another run, or an unfinished capture, has that name there.
    """
    folder = run_list.find_run(source, run_id)
    meta = Manifest.read(folder)
    if run_list.is_published(target, run_id):
        if manifest_hash(target, run_id) != folder_manifest_hash(folder):
            raise UsageError(
                f"{target} has another run that is named '{run_id}'. To copy this one, delete that: traces runs rm {run_id} -w {target}"
            )
        _show(target, meta, run_id)
        return False
    staging = paths.staging_dir(target, run_id)
    if paths.journal_path(staging).is_file():
        raise UsageError(
            f"An unfinished capture in {target} is named '{run_id}': finish it, or drop it with traces runs rm {run_id}"
        )
    with locked_for_removal(target, run_id):
        if isinstance(target, Path):
            staged = _stage(folder, meta, staging, check, report)
            staged.rename(str(paths.run_dir(target, run_id)))
            sync_folder(target)
            delete(staging)
        else:
            _upload(folder, target, run_id, meta, staging, check, report)
    _show(target, meta, run_id)
    return True


def _stage(folder: AnyPath, meta: Manifest, staging: Path, check: Check, report: Report) -> Path:
    """Copy a run's files into a staging folder, and check them there."""
    staged = paths.staged_run(staging)
    for f in meta.files:
        file = staged / f.path
        if not file.is_file() or file.stat().st_size != f.bytes:
            file.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(folder / f.path, file)
        report(f.bytes)
    link_or_copy(folder / paths.MANIFEST, staged / paths.MANIFEST)
    check(staged)
    for parent in {(staged / f.path).parent for f in meta.files} | {staged}:
        sync_folder(parent)
    return staged


def _upload(
    folder: AnyPath, target: ObjectPath, run_id: str, meta: Manifest, staging: Path, check: Check, report: Report
) -> None:
    """Upload a run's files and publish it."""
    if isinstance(folder, Path):
        check(folder)
    upload = RunUpload(target, run_id)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        mark = staging / "copy"
        mark.write_bytes(folder_manifest_hash(folder).encode() + b"\n")
        try:
            upload.claim(mark)
        except BaseException:
            mark.unlink()
            with contextlib.suppress(OSError):  # it has files of an earlier try
                staging.rmdir()
            raise
        here = folder if isinstance(folder, Path) else _stage(folder, meta, staging, check, lambda _: None)
        for f in meta.files:
            if upload.size(f.path) != f.bytes:  # by the claim, what is there is of an earlier try of this copy
                upload.put(f.path, here / f.path)
            report(f.bytes)
        upload.publish(here, {f.path: f.bytes for f in meta.files}, (here / paths.MANIFEST).read_bytes(), keep=True)
        delete(staging)
    finally:
        upload.close()


def _show(target: AnyPath, meta: Manifest, run_id: str) -> None:
    """Have the other warehouse's views show the run."""
    if isinstance(target, ObjectPath):
        list_run(target, meta.model_copy(update={"run_id": run_id}))
    build.refresh(target)
