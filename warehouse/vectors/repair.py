"""Repair vector tables that are damaged, half written or missing, so that `ingest.rebuild` can rebuild them.

`traces index rebuild` calls it first. What a lost table held is taken from what is left of it, else from the options of the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from warehouse.errors import TracesError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath, sorted_paths
from warehouse.storage.vector_info import ModelFolder, read_info
from warehouse.vectors import index_spec, ingest, trait_table
from warehouse.vectors.model_folders import default_folder_name, model_folders, remove_if_empty
from warehouse.vectors.table import open_lance, remove_files


def repair(root: AnyPath, report: ingest.Report, note: Callable[[str], None]) -> None:
    """Drop tables that cannot be read, and add every run to the tables that it has, had, or was captured for.

    Args:
        root: The warehouse.
        report: Called with a table's name and the number of rows that were added to it.
        note: Called with what is being done.
    """
    _repair_folders(root)
    wanted = {run: specs for run in run_list.published_runs(root) if (specs := _index_specs(root, run))}
    for model, table in _damaged(root):
        key = sites.key_of(table)
        for run in _runs_listed(root, model, table) or _runs_that_stored(root, model, key):
            layers: Any = "all" if key.layer is None else (key.layer,)
            wanted.setdefault(run, []).append(
                index_spec.IndexSpec("enc" if key.side == "enc" else None, key.site, layers)
            )
        note(f"{model}/{table} is damaged: rebuilding it")
        remove_files(root, model, table)
        remove_if_empty(root, model)
    # A folder whose model is unknown holds a table of traits at most.
    for folder in set(paths.vector_folders(root)) - model_folders(root).keys():
        trait_table.remove(root, folder)
    for run, specs in wanted.items():
        ingest.add(root, run, specs, None, report, note)
    trait_table.reconcile(root, rebuild=True)


def _repair_folders(root: AnyPath) -> None:
    """Write lost or damaged model.json files again from what the folder's tables say, or delete them where no table says it."""
    known = model_folders(root)
    for folder in paths.vector_folders(root):
        path = paths.vector_model_path(root, folder)
        try:
            ModelFolder.read_from(path)
        except (TracesError, FileNotFoundError):
            delete(path)
            if folder in known:
                known[folder].write_to(path)


def _index_specs(root: AnyPath, run: str) -> list[index_spec.IndexSpec]:
    """Return the specs that a run was captured with; none for a run that cannot be read."""
    try:
        return index_spec.for_run_options(Manifest.read(paths.run_dir(root, run)))
    except TracesError:  # a run that cannot be read is for traces runs validate
        return []


def _damaged(root: AnyPath) -> list[tuple[str, str]]:
    """Return model and table of those that cannot be read, or that an interrupted first fill left without their info."""
    damaged = []
    for model in paths.vector_folders(root):
        for path in sorted_paths((paths.vectors_dir(root) / model).glob("*.lance")):
            table = path.name.removesuffix(".lance")
            if table != paths.TRAITS_TABLE and not paths.vector_info_path(root, model, table).is_file():
                damaged.append((model, table))
    for model, table in paths.vector_tables(root):
        try:
            read_info(root, model, table)
            open_lance(paths.vector_lance_path(root, model, table)).count_rows()
        except (TracesError, OSError, ValueError, RuntimeError):
            damaged.append((model, table))
    return damaged


def _runs_listed(root: AnyPath, model: str, table: str) -> list[str]:
    """Return the published runs that a damaged table's info names, or else its rows."""
    published = set(run_list.published_runs(root))
    try:
        runs = set(read_info(root, model, table).runs)
    except (TracesError, OSError):
        try:
            lance = open_lance(paths.vector_lance_path(root, model, table))
            runs = set(
                lance.search().select(["run_id"]).limit(lance.count_rows()).to_arrow()["run_id"].unique().to_pylist()
            )
        except (TracesError, OSError, ValueError, RuntimeError):
            return []
    return sorted(runs & published)


def _runs_that_stored(root: AnyPath, model: str, key: Key) -> list[str]:
    """Return all runs of a model that stored a tensor, for a table of which nothing is left to say which runs it held."""
    space = {m.space for folder, m in model_folders(root).items() if folder == model}
    runs = []
    for run in run_list.published_runs(root):
        meta = Manifest.read(paths.run_dir(root, run))
        same = meta.model.space in space if space else default_folder_name(meta.model) == model
        if same and any((s.side, s.site) == (key.side, key.site) and key.layer in s.layers for s in meta.sites):
            runs.append(run)
    return runs
