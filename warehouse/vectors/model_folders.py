"""The folders of vector tables, one for each model: which weights a folder is of, and how users name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from warehouse.errors import CorruptRunError, NotFoundError, TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.files import delete
from warehouse.storage.manifest import ModelInfo
from warehouse.storage.vector_info import ModelFolder, read_info

if TYPE_CHECKING:
    pass


def remove_if_empty(root: Path, model: str) -> None:
    """Deletes the folder of a model that has no vector tables any more."""
    if model not in {m for m, _ in paths.vector_tables(root)} | set(paths.trait_table_folders(root)):
        delete(paths.vectors_dir(root) / model)


def model_folders(root: Path) -> dict[str, ModelFolder]:
    """The folders of vector tables; one whose model.json is lost or damaged is of what its tables say."""
    found: dict[str, ModelFolder] = {}
    for model in paths.vector_folders(root):
        try:
            found[model] = ModelFolder.read_from(paths.vector_model_path(root, model))
        except (CorruptRunError, FileNotFoundError):
            space = next(_spaces(root, model), None)
            if space is not None:
                found[model] = ModelFolder(names=[model], space=space)
    return found


def _spaces(root: Path, model: str) -> Iterator[str]:
    """The weights that a folder's tables say they are of."""
    for folder, table in paths.vector_tables(root):
        if folder == model:
            with contextlib.suppress(TracesError, FileNotFoundError):
                yield read_info(root, model, table).space


def find_folder(root: Path, model: ModelInfo) -> str | None:
    """The folder with vectors of these weights, whatever the model is called."""
    return next((f for f, m in model_folders(root).items() if m.space == model.space), None)


def folder_named(root: Path, model: str) -> str:
    """The folder that a user means: by its own name, or by what captures call the model.

    Raises NotFoundError, or UsageError where two models with different weights are called so.
    """
    known = model_folders(root)
    if model in known:
        return model
    found = [f for f, m in known.items() if model in m.names]
    if len(found) > 1:
        raise UsageError(f"'{model}' has had different weights, each with vectors of its own: {' or '.join(found)}.")
    if not found:
        raise NotFoundError("model with vector tables", model, known, "Make one: traces index add --help")
    return found[0]


def default_folder_name(model: ModelInfo) -> str:
    """What a model's folder is called, unless another's is."""
    return paths.sql_name(Path(model.name).name.removesuffix(".gguf"))[:100]


def claim_folder(root: Path, model: ModelInfo) -> str:
    """The folder for a model's vectors, made if there is none: the same weights share one, others never do."""
    lock = paths.vector_folders_lock_path(root)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        known = model_folders(root)
        folder = find_folder(root, model)
        names = known[folder].names if folder else []
        if folder and model.name in names:
            return folder
        if folder is None:
            folder = default_folder_name(model)
            if folder.casefold() in {f.casefold() for f in (*known, *paths.vector_folders(root))}:
                folder = f"{folder}_{model.space[:6]}"
        made = ModelFolder(names=[*names, model.name], space=model.space)
        path = paths.vector_model_path(root, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.write_to(path)
        return folder
