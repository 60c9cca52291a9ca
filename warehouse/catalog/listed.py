"""The list of runs of a warehouse in an object store: what a published run adds to it, and what of it the catalog reads.

The list says of each run what a survey of its folder would, and the row that it has in `runs`, so that a catalog is made without
asking for a single run. It is made again from the manifests by `relist`.
"""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from warehouse.catalog.groups import Groups, groups_from_values
from warehouse.catalog.manifest_sql import manifest_rows
from warehouse.catalog.survey import Survey, Surveyed, file_state, survey_run
from warehouse.schema.quoting import sql_text
from warehouse.schema.tables import SCHEMA_VERSION, TABLES
from warehouse.storage import object_log, paths, run_list
from warehouse.storage.manifest import Manifest, folder_manifest_hash, manifest_hash
from warehouse.storage.object_log import COMING, GROUPS, RUNS
from warehouse.storage.objects import AnyPath, ObjectPath

_AT_ONCE = 16
"""Runs that are asked for at a time where the list is made again."""


def list_run(root: ObjectPath, manifest: Manifest) -> None:
    """Put a run on the list that has just been published."""
    tables = {f.path: f.bytes for f in manifest.files if paths.table_of_file(f.path)}
    state = file_state(paths.run_dir(root, manifest.run_id) / paths.MANIFEST)
    current = manifest.schema_version == SCHEMA_VERSION
    run = Surveyed(state, state, tuple(sorted(tables)), sum(tables.values()), current)
    name = manifest.run_id
    entry = _entry(run, manifest.to_bytes(), name, manifest_hash(root, name))
    object_log.append(root, {RUNS: {name: entry}, COMING: {name: None}})


def unlist_run(root: ObjectPath, run_id: str) -> None:
    """Take a run off the list, if it is on it."""
    sections = object_log.read(root).sections
    if run_id in sections[RUNS] or run_id in sections[COMING]:
        object_log.append(root, {RUNS: {run_id: None}, COMING: {run_id: None}})


def list_unlisted(root: ObjectPath) -> None:
    """Put runs on the list whose writers were killed once they had published them; who may only read leaves that to others."""
    with contextlib.suppress(PermissionError):
        for name in run_list.unlisted_runs(root):
            entry = _survey(paths.run_dir(root, name), name)
            object_log.append(root, {RUNS: {name: entry}, COMING: {name: None}})


def listed_runs(root: ObjectPath, known: Survey) -> Survey:
    """Return what the list says of the runs; a fault that was found in a run stays until the run is another."""
    runs = {}
    for name, value in object_log.read(root).sections[RUNS].items():
        run, before = _surveyed(value), known.get(name)
        runs[name] = before if before is not None and before.manifest == run.manifest else run
    return runs


def listed_rows(root: ObjectPath, names: list[str]) -> list[dict[str, Any]]:
    """Return the rows that runs have in `runs`, as JSON values."""
    listed = object_log.read(root).sections[RUNS]
    return [listed[name]["row"] for name in names]


def listed_parents(root: ObjectPath) -> dict[str, list[str]]:
    """Return the parents of the runs that can be read, by the run's name."""
    listed = object_log.read(root).sections[RUNS]
    return {name: run["row"]["parents"] for name, run in listed.items() if run["row"] is not None}


def listed_hashes(root: ObjectPath) -> dict[str, str]:
    """Return what `manifest_hash` says of the runs that can be read, by their names."""
    listed = object_log.read(root).sections[RUNS]
    return {name: run["hash"] for name, run in listed.items() if run["hash"] is not None}


def listed_groups(root: ObjectPath) -> Groups:
    """Return the groups of runs whose tables are compacted."""
    return groups_from_values(object_log.read(root).sections[GROUPS])


def relist(root: ObjectPath) -> None:
    """Make the list again from the manifests that there are: runs that were copied in come, those that were deleted go.

    Who may only read leaves that to others.
    """
    listed = object_log.read(root).sections[RUNS]
    folders = {paths.run_id_of(p): p for p in root.iterdir() if p.name.startswith(paths.RUN_PREFIX)}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        states = dict(zip(folders, pool.map(lambda p: file_state(p / paths.MANIFEST), folders.values()), strict=True))
        there = {name: folders[name] for name, state in states.items() if state != "none"}
        new = [name for name in there if name not in listed or _surveyed(listed[name]).manifest != states[name]]
        entries = dict(zip(new, pool.map(lambda name: _survey(there[name], name), new), strict=True))
    change: dict[str, Any] = {name: None for name in listed if name not in there}
    change |= {name: entry for name, entry in entries.items() if entry is not None}
    if change:
        with contextlib.suppress(PermissionError):
            object_log.append(root, {RUNS: change, COMING: dict.fromkeys(there)})


def _survey(folder: AnyPath, name: str) -> dict[str, Any]:
    """Return what the list is to say of a run that is not on it."""
    run = survey_run(folder, thorough=False)
    if run.fault:
        return _entry(run, None, name, None)
    return _entry(run, (folder / paths.MANIFEST).read_bytes(), name, folder_manifest_hash(folder))


def _entry(run: Surveyed, manifest: bytes | None, name: str, known_by: str | None) -> dict[str, Any]:
    return {"survey": list(run), "row": None if manifest is None else _row(manifest, name), "hash": known_by}


def _surveyed(value: dict[str, Any]) -> Surveyed:
    manifest, files, tables, size, current, fault = value["survey"]
    return Surveyed(manifest, files, tuple(tables), size, current, fault)


def _row(manifest: bytes, name: str) -> dict[str, Any]:
    """Return the row of a run in `runs`, as JSON values."""
    from warehouse.storage import strict_json

    with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as scratch, duckdb.connect() as con:
        file = Path(scratch) / f"{paths.RUN_PREFIX}{name}" / paths.MANIFEST
        file.parent.mkdir()
        file.write_bytes(manifest)
        row = con.sql(f"SELECT to_json(r) FROM ({manifest_rows([file])}) AS r").fetchone()
    assert row is not None
    fields: dict[str, Any] = strict_json.parse(row[0])
    return fields


def rows_sql(values: str) -> str:
    """Write SQL for rows of `runs` from a JSON list of them, given as SQL."""
    columns = ", ".join(
        f'"{c.name}": ["{c.sql.removesuffix("[]")}"]' if c.sql.endswith("[]") else f'"{c.name}": "{c.sql}"'
        for c in TABLES["runs"].columns
    )
    return f"SELECT r.* FROM (SELECT unnest(from_json({values}::JSON, {sql_text(f'[{{{columns}}}]')})) AS r)"
