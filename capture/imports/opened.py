"""Finds out what a file or folder of another tool is, and opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from capture.data.files import check_readable, printable_value, read_json, user_path
from capture.imports.activation_cache import TOKEN_NAMES, open_caches
from capture.imports.own_arrays import by_layer, is_own_arrays
from capture.imports.padded_zarr import is_padded_zarr, open_padded_zarr
from capture.imports.sae_activations import is_sae_activations, read_sae_activations
from capture.imports.server_states import is_server_states, open_server_states
from capture.imports.tensor_file import ENDINGS, TensorFile, read_tensor_file
from capture.imports.traces import Traces
from capture.imports.trait_files import TraitFile, is_trait_file, open_trait_file
from capture.imports.trait_means import is_trait_means, open_trait_means
from capture.model.hook_names import is_hook
from warehouse.errors import NotFoundError, UsageError

FORMATS = (
    "auto",
    "transformer-lens",
    "nnsight",
    "sae-lens",
    "npz",
    "vllm",
    "zarr",
    "trait-means",
    "trait-vectors",
    "control-vector",
)
_INDEX = "index.json"


def open_traces(
    origin: str, format: str = "auto", tokens: str | None = None, layers: Sequence[int] | None = None
) -> Traces | TraitFile:
    """Open a file or folder of another tool.

    Args:
        origin: The file; or the folder, of stores or of files that are read in the order of their names.
        format: One of `FORMATS`; `auto`: what its contents look like.
        tokens: A file of token ids, where the tensors come without.
        layers: The layers that a server saved, as it counts them.

    Returns:
        What it holds.

    Raises:
        UsageError: It is none of these formats, or damaged, or an option is not for it.
        NotFoundError: There is nothing, or no such format.
    """
    if format not in FORMATS:
        raise NotFoundError("format", format, FORMATS)
    path = user_path(origin)
    found = "zarr" if format == "zarr" or (format == "auto" and is_padded_zarr(path)) else format
    if found in ("trait-vectors", "control-vector") or (found == "auto" and is_trait_file(path)):
        _check_alone(tokens=tokens, layers=layers, format="trait-vectors" if found == "auto" else found)
        return open_trait_file(path)
    if found == "zarr":
        if not path.is_dir():
            raise UsageError(f"{printable_value(path)} is no folder of padded Zarr stores.")
        _check_alone(tokens=tokens, layers=layers, format=found)
        return open_padded_zarr(path)
    if found == "sae-lens" or (found == "auto" and is_sae_activations(path)):
        if not path.is_dir():
            raise UsageError(
                f"{printable_value(path)} is no folder of a data set, in which SAELens caches activations."
            )
        _check_alone(tokens=tokens, layers=layers, format="sae-lens")
        return open_caches(read_sae_activations(path), "sae-lens", path.name)
    files = _files(path)
    first = read_tensor_file(files[0])
    if found == "auto":
        found = _told_by(first)
    name = path.stem if path.is_file() else path.name
    if found == "trait-means":
        _check_alone(tokens=tokens, layers=layers, format=found)
        return open_trait_means(first, name)
    if found == "vllm":
        _check_alone(tokens=tokens, format=found)
        return open_server_states(files, name, layers)
    _check_alone(layers=layers, format=found)
    opened = [first, *map(read_tensor_file, files[1:])]
    if found == "npz":
        opened = list(map(by_layer, opened))
    return open_caches(opened, found, name, None if tokens is None else _read_tokens(user_path(tokens)))


def _told_by(file: TensorFile) -> str:
    """Return which format a file with tensors is, by their names."""
    if is_server_states(file):
        return "vllm"
    if is_trait_means(file):
        return "trait-means"
    if is_own_arrays(file):
        return "npz"
    return "transformer-lens" if any(map(is_hook, file.tensors)) else "nnsight"


def _check_alone(format: str, **options: Any) -> None:
    """Raise UsageError where an option is given that is not for a format."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} is not for files of the format {format}.")


def _files(path: Path) -> list[Path]:
    """Return the files with tensors at a path.

    Raises:
        UsageError: There is none.
    """
    if not path.is_dir():
        return [check_readable(path)]
    if (path / _INDEX).is_file():
        index = read_json(path / _INDEX)
        listed = index.get("files") if isinstance(index, dict) else None
        if isinstance(listed, list) and all(isinstance(f, dict) and isinstance(f.get("file"), str) for f in listed):
            named = [path / f["file"] for f in listed if Path(f["file"]).suffix in ENDINGS]
            if named and all(file.resolve().is_relative_to(path.resolve()) for file in named):
                return [check_readable(file) for file in named]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    if not files:
        raise UsageError(
            f"{printable_value(path)} has neither padded Zarr stores nor files with tensors ({', '.join(ENDINGS)})."
        )
    return files


def _read_tokens(path: Path) -> list[list[int]]:
    """Read token ids of texts from a file: JSON with a list of lists, or tensors under one of `TOKEN_NAMES`.

    Returns:
        The ids of each text.

    Raises:
        UsageError: It holds no token ids.
    """
    if path.suffix.lower() == ".json":
        value = read_json(path)
    elif path.suffix.lower() == ".npy":
        try:
            value = np.load(check_readable(path), allow_pickle=False).tolist()
        except (ValueError, EOFError):
            raise UsageError(f"{printable_value(path)} is no array of numbers.") from None
    else:
        tensors = read_tensor_file(path).tensors
        value = next((tensors[name].tolist() for name in (*TOKEN_NAMES, "") if name in tensors), None)
    texts = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    if not all(isinstance(t, list) and t and all(type(i) is int for i in t) for t in texts):
        raise UsageError(f"{printable_value(path)} holds no token ids: a list of whole numbers for each text.")
    return texts
