"""Delete the tensors of runs, and keep their rows: a run then answers every question in SQL, and none about vectors.

A new manifest without tensors takes the place of the old one in one rename: before it the run is as it was, after it the tensors are
files that no manifest lists, and what deletes them can be killed and called again. Who has opened a shard goes on reading it. Rows of
vector tables are vectors too, and go with the tensors. `traces runs expire` calls this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from warehouse.catalog import build
from warehouse.catalog.listed import list_run
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.maintenance.remove import locked_for_removal
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete, sync_folder
from warehouse.storage.manifest import Expired, FileInfo, Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.vectors.reconcile import remove_run_rows

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_age(text: str) -> timedelta:
    """Return a length of time, written as `30d`, `12h` or `2w`.

    Raises:
        UsageError: It is not one.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if match is None:
        raise UsageError(
            f"--older-than {text}: write a number and m, h, d or w (minutes, hours, days, weeks), such as 30d."
        )
    return int(match[1]) * _UNITS[match[2]]


def find_expiring(
    root: AnyPath, names: Sequence[str], age: timedelta, note: Callable[[str], None] = lambda _: None
) -> dict[str, Manifest]:
    """Find the runs whose tensors are to go.

    Args:
        root: The warehouse.
        names: Names of runs, or patterns such as `probe-*`; none: all runs.
        age: How long ago a run has to have begun, at least.
        note: Called with runs that cannot be read, which are left out.

    Returns:
        By name, the manifests of captured runs that have tensors, and of those that were about to lose them when a process was
        killed. Runs that are symbolic links are left out: what they lead to is not this warehouse's.

    Raises:
        NotFoundError: A name or a pattern is of no run.
    """
    published = run_list.published_runs(root)
    for name in names:
        if not any(fnmatchcase(run, name) for run in published):
            raise NotFoundError("run", name, published)
    expiring = {}
    for run in published:
        if names and not any(fnmatchcase(run, name) for name in names):
            continue
        folder = paths.run_dir(root, run)
        if folder.is_symlink():
            note(f"left out: {folder} is a symbolic link")
            continue
        try:
            meta = Manifest.read(folder)
        except TracesError as e:
            note(f"left out: {e}")
            continue
        if (meta.expired is not None and any(p.exists() for p in _tensor_folders(folder))) or (
            meta.captured and meta.sites and datetime.now(UTC) - meta.created_at >= age
        ):
            expiring[run] = meta
    return expiring


def tensor_bytes(folder: AnyPath, meta: Manifest) -> int:
    """Return how many bytes of a run go: of its tensors and their index."""
    if meta.expired is None:
        return sum(f.bytes for f in meta.files if _is_of_tensors(f))
    return sum(p.stat().st_size for x in _tensor_folders(folder) for p in x.rglob("*") if p.is_file())


def expire_tensors(root: AnyPath, runs: Iterable[str], note: Callable[[str], None] = lambda _: None) -> None:
    """Delete tensors, their index and their rows of vector tables; called again, it finishes what was interrupted.

    Args:
        root: The warehouse.
        runs: The runs.
        note: Called with what is waited for.

    Raises:
        UsageError: A process is writing a run of that name.
    """
    runs = list(runs)
    for run in runs:
        with locked_for_removal(root, run):
            _write_manifest(paths.run_dir(root, run))
            if isinstance(root, ObjectPath):
                list_run(root, Manifest.read(paths.run_dir(root, run)))
    build.refresh(root)  # no view names a file that is about to go
    for run in runs:
        with locked_for_removal(root, run):
            remove_run_rows(root, run, note)
            for path in _tensor_folders(paths.run_dir(root, run)):
                delete(path)
            sync_folder(paths.run_dir(root, run))


def _write_manifest(folder: AnyPath) -> None:
    """Put a manifest without tensors in the place of a run's own, unless it has none any more."""
    meta = Manifest.read(folder)
    if meta.expired is not None:
        return
    files = [f for f in meta.files if not _is_of_tensors(f)]
    changed = {
        "sites": [],
        "files": files,
        "bytes": sum(f.bytes for f in files),
        "counts": meta.counts.model_copy(update={"rows": meta.counts.rows | {"tensors": 0}}),
        "expired": Expired(at=datetime.now(UTC), manifest=folder_manifest_hash(folder)),
    }
    meta.model_copy(update=changed).write(folder)
    sync_folder(folder)


def _is_of_tensors(file: FileInfo) -> bool:
    return paths.table_of_file(file.path) in (None, "tensors")


def _tensor_folders(folder: AnyPath) -> list[AnyPath]:
    return [folder / paths.BLOBS, folder / "tensors"]
