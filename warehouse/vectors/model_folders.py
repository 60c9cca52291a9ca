"""The folders of vector tables, one for each model: which weights a folder belongs to, and how users name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from warehouse.errors import CorruptRunError, NotFoundError, TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.exclusive import exclusive
from warehouse.storage.files import delete
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.objects import AnyPath
from warehouse.storage.vector_info import ModelFolder, read_info


def remove_if_empty(root: AnyPath, model: str) -> None:
    """Delete the folder of a model that has no vector tables any more."""
    if model not in {m for m, _ in paths.vector_tables(root)} | set(paths.trait_table_folders(root)):
        delete(paths.vectors_dir(root) / model)


def model_folders(root: AnyPath) -> dict[str, ModelFolder]:
    """Return the folders of vector tables by name; where model.json is lost or damaged, the tables say which weights it was."""
    folders: dict[str, ModelFolder] = {}
    for model in paths.vector_folders(root):
        try:
            folders[model] = ModelFolder.read_from(paths.vector_model_path(root, model))
        except (CorruptRunError, FileNotFoundError):
            space = next(_spaces(root, model), None)
            if space is not None:
                folders[model] = ModelFolder(names=[model], space=space)
    return folders


def _spaces(root: AnyPath, model: str) -> Iterator[str]:
    """Yield the weights that a folder's readable tables name."""
    for folder, table in paths.vector_tables(root):
        if folder == model:
            with contextlib.suppress(TracesError, FileNotFoundError):
                yield read_info(root, model, table).space


def find_folder(root: AnyPath, model: ModelInfo) -> str | None:
    """Find the folder with vectors of these weights, whatever the model is called."""
    return next((f for f, m in model_folders(root).items() if m.space == model.space), None)


def folder_named(root: AnyPath, model: str) -> str:
    """Find the folder that a user means.

    Args:
        root: The warehouse.
        model: The folder's name, or what captures call the model.

    Returns:
        The folder's name.

    Raises:
        NotFoundError: Where no model is called so.
        UsageError: Where two models with different weights are.
    """
    known = model_folders(root)
    if model in known:
        return model
    matches = [f for f, m in known.items() if model in m.names]
    if len(matches) > 1:
        raise UsageError(f"'{model}' has had different weights, each with vectors of its own: {' or '.join(matches)}.")
    if not matches:
        raise NotFoundError("model with vector tables", model, known, "Make one: traces index add --help")
    return matches[0]


def default_folder_name(model: ModelInfo) -> str:
    """Return what a model's folder is called, unless another model's folder is."""
    return paths.sql_name(Path(model.name).name.removesuffix(".gguf"))[:100]


def claim_folder(root: AnyPath, model: ModelInfo) -> str:
    """Return the folder for a model's vectors, creating it if need be: the same weights share a folder, others never do."""
    lock = paths.vector_folders_lock_path(root)
    with exclusive(root, lock):
        known = model_folders(root)
        folder = find_folder(root, model)
        names = known[folder].names if folder else []
        if folder and model.name in names:
            return folder
        if folder is None:
            folder = default_folder_name(model)
            if folder.casefold() in {f.casefold() for f in (*known, *paths.vector_folders(root))}:
                folder = f"{folder}_{model.space[:6]}"
        info = ModelFolder(names=[*names, model.name], space=model.space)
        path = paths.vector_model_path(root, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        info.write_to(path)
        return folder
