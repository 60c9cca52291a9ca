"""Which runs a warehouse has: the folders of a local one, and what the list says of one in an object store."""

from __future__ import annotations

import os

from warehouse.errors import NotFoundError, RunExistsError
from warehouse.storage import object_log, paths
from warehouse.storage.objects import AnyPath, ObjectPath


def exists(root: AnyPath) -> bool:
    """Return whether there is a warehouse: a folder, or a list of runs."""
    return object_log.read(root).number > 0 if isinstance(root, ObjectPath) else root.is_dir()


def run_names(root: AnyPath) -> list[str]:
    """Return the names of the folders that are named as runs, sorted; what is in them is not looked at."""
    if isinstance(root, ObjectPath):
        return sorted({*object_log.read(root).sections[object_log.RUNS], *unlisted_runs(root)})
    if not root.is_dir():
        return []
    prefix = paths.RUN_PREFIX
    with os.scandir(root) as entries:  # which says what is a folder without asking the disk again
        return sorted(e.name.removeprefix(prefix) for e in entries if e.name.startswith(prefix) and e.is_dir())


def unlisted_runs(root: ObjectPath) -> list[str]:
    """Return the names of published runs that were announced and are not on the list: their writer is about to do that, or was killed."""
    sections = object_log.read(root).sections
    return sorted(
        name
        for name in sections[object_log.COMING]
        if name not in sections[object_log.RUNS] and is_published(root, name)
    )


def run_folders(root: AnyPath) -> list[AnyPath]:
    """Return the folders that are named as runs, sorted; what is in them is not looked at."""
    return [root / f"{paths.RUN_PREFIX}{name}" for name in run_names(root)]


def is_published(root: AnyPath, run_id: str) -> bool:
    """Return whether there is a run of this name: a folder with a manifest, which is written last."""
    return (paths.run_dir(root, run_id) / paths.MANIFEST).is_file()


def is_taken(root: AnyPath, run_id: str) -> bool:
    """Return whether no run can be published under a name: there is one, or a local folder that is named so."""
    return is_published(root, run_id) if isinstance(root, ObjectPath) else paths.run_dir(root, run_id).exists()


def check_free(root: AnyPath, run_id: str) -> None:
    """Check that a run can be published under a name.

    Raises:
        UsageError: It is no name of a run.
        RunExistsError: It is taken.
    """
    if is_taken(root, paths.check_run_name(run_id)):
        raise RunExistsError(run_id)


def published_runs(root: AnyPath) -> list[str]:
    """Return the names of the published runs: folders with a manifest in them."""
    listed = isinstance(root, ObjectPath)
    return [
        name for p in run_folders(root) if (name := paths.run_id_of(p)) and (listed or (p / paths.MANIFEST).is_file())
    ]


def find_run(root: AnyPath, run_id: str) -> AnyPath:
    """Return the folder of a published run.

    Raises:
        NotFoundError: There is none of that name; the message lists the nearest.
    """
    folder = paths.run_dir(root, run_id)
    if not (folder / paths.MANIFEST).is_file():
        hint = "It is unfinished: run its capture again to go on." if run_id in paths.staged_runs(root) else ""
        raise NotFoundError("run", run_id, published_runs(root), hint)
    return folder
