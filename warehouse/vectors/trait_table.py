"""`vectors/<model>/traits.lance`: the vectors of all traits of a model, to search which are near each other.

A row is a vector of a run of kind `trait-vectors` that is of these weights: run_id, trait, method, component, layer, vector. The table
is an index over those runs. It is rewritten in one commit when they have changed; its metadata names the runs that it holds. A run
has some hundreds of rows, so searches compare all of them.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.catalog.listed import listed_runs
from warehouse.errors import CorruptRunError, StoreError, TracesError
from warehouse.storage import paths, run_list, strict_json
from warehouse.storage.exclusive import exclusive
from warehouse.storage.files import delete, parquet_source
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.vectors.model_folders import claim_folder, remove_if_empty
from warehouse.vectors.table import FORMAT, connect, lance_options, open_lance

_RUNS = b"trace-warehouse:runs"
"""Key in the table's metadata: the runs and the hashes of their manifests, as JSON."""
_TABLE = "trait_vectors"
_NAMES = ("trait", "method", "component")


def reconcile(root: AnyPath, rebuild: bool = False) -> list[str]:
    """Bring every model's table up to date with its runs.

    Args:
        root: The warehouse.
        rebuild: Whether to rewrite tables that are up to date too.

    Returns:
        Names of runs that a table held and that are gone or were replaced, sorted.

    Raises:
        CorruptRunError: For a run whose vectors cannot be read.
    """
    wanted = _wanted(root)
    gone: set[str] = set()
    for folder in sorted({*wanted, *paths.trait_table_folders(root)}):
        with exclusive(root, paths.vector_lock_path(root, folder, paths.TRAITS_TABLE)):
            have, want = _runs_of(root, folder), wanted.get(folder, {})
            gone |= {run for run, manifest in (have or {}).items() if want.get(run) != manifest}
            if not want:
                remove(root, folder)
            elif rebuild or have != want:
                _write(root, folder, want, damaged=have is None)
    return sorted(gone)


def _wanted(root: AnyPath) -> dict[str, dict[str, str]]:
    """Return by folder the runs whose vectors belong there, with the hashes of their manifests."""
    wanted: dict[str, dict[str, str]] = {}
    file = paths.table_file(_TABLE)
    listed = listed_runs(root, {}) if isinstance(root, ObjectPath) else {}
    for folder in run_list.run_folders(root):
        run = paths.run_id_of(folder)
        if not (file in listed[run].tables if run in listed else (folder / file).is_file()):
            continue
        # A run that cannot be read is for traces runs validate.
        with contextlib.suppress(TracesError, FileNotFoundError):
            model = Manifest.read(paths.run_dir(root, run)).model
            wanted.setdefault(claim_folder(root, model), {})[run] = manifest_hash(root, run)
    return wanted


def _runs_of(root: AnyPath, folder: str) -> dict[str, str] | None:
    """Return the runs that a folder's table holds; None where it does not exist or cannot be read."""
    path = paths.vector_lance_path(root, folder, paths.TRAITS_TABLE)
    if not path.is_dir():
        return None
    try:
        table = open_lance(path)
        table.count_rows()
        runs = strict_json.parse((table.schema.metadata or {})[_RUNS])
    except (TracesError, OSError, ValueError, RuntimeError, KeyError):
        return None
    return {str(run): str(manifest) for run, manifest in runs.items()} if isinstance(runs, dict) else None


def _write(root: AnyPath, folder: str, runs: dict[str, str], damaged: bool) -> None:
    """Write all rows in one commit, so that readers see the old table or the new."""
    path = paths.vector_lance_path(root, folder, paths.TRAITS_TABLE)
    if damaged:
        delete(path)
    rows = pa.concat_tables(_rows(root, run) for run in runs)
    rows = rows.replace_schema_metadata({_RUNS: json.dumps(runs).encode()})
    mode = "overwrite" if path.is_dir() else "create"
    table = connect(path.parent).create_table(
        paths.TRAITS_TABLE, rows, mode=mode, storage_options=FORMAT | lance_options(path)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def _rows(root: AnyPath, run: str) -> pa.Table:
    path = paths.run_dir(root, run) / paths.table_file(_TABLE)
    try:
        rows = pq.read_table(parquet_source(path), columns=[*_NAMES, "layer", "vector"], partitioning=None)
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as e:
        raise CorruptRunError(f"{path} cannot be read: {e}") from None
    vectors = rows["vector"].combine_chunks()
    widths = set(pc.list_value_length(vectors).to_pylist())
    if None in widths or len(widths) > 1:
        raise CorruptRunError(f"{path} has vectors of several widths, or without one.")
    width = widths.pop() if widths else 0
    columns: dict[str, Sequence[object] | pa.Array] = {
        "run_id": pa.repeat(run, len(rows)),
        **{name: rows[name] for name in _NAMES},
        "layer": rows["layer"].cast(pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(vectors.flatten(), width),
    }
    return pa.table(columns)


def remove(root: AnyPath, folder: str) -> None:
    """Delete a model's table of traits; `reconcile` makes it again from the runs."""
    delete(paths.vector_lance_path(root, folder, paths.TRAITS_TABLE))
    remove_if_empty(root, folder)
