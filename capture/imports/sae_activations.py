"""Activations as SAELens caches them: a data set on disk of `datasets`, a column a hook, (context_size, D), and `token_ids`.

A row is a piece of a text and becomes a text of its own. Arrow files are mapped; each of their batches becomes a `TensorFile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from capture.data.files import check_readable, printable_value, read_json
from capture.imports.tensor_file import TensorFile, as_metadata
from capture.model.hook_names import is_hook
from warehouse.errors import UsageError, first_line

_TOKENS = "token_ids"
_STATE, _INDEX = "state.json", "index.json"


def is_sae_activations(path: Path) -> bool:
    """Whether a folder is a data set on disk with a column named after a hook."""
    info = path / "dataset_info.json"
    if not info.is_file() or not (path / _STATE).is_file():
        return False
    said = read_json(info)
    features = said.get("features") if isinstance(said, dict) else None
    return isinstance(features, dict) and any(map(is_hook, features))


def read_sae_activations(folder: Path) -> list[TensorFile]:
    """Map the activations of a data set on disk.

    Args:
        folder: The folder.

    Returns:
        Its batches: `tokens` (rows, context_size), and a tensor a hook (rows, context_size, D).

    Raises:
        UsageError: A file is missing or damaged, has no column `token_ids`, or rows of different sizes.
    """
    state = read_json(check_readable(folder / _STATE))
    listed = state.get("_data_files") if isinstance(state, dict) else None
    listed = listed if isinstance(listed, list) else []
    names: list[Any] = [f.get("filename") for f in listed if isinstance(f, dict)]
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise UsageError(f"{printable_value(folder / _STATE)} names no files of a data set.")
    said = _said(folder)
    return [TensorFile(folder / name, tensors, said) for name in names for tensors in _batches(folder / name)]


def _said(folder: Path) -> dict[str, str]:
    """Return what our own export says of where it came from; of others' nothing."""
    path = folder / _INDEX
    index = read_json(path) if path.is_file() else None
    if not isinstance(index, dict) or index.get("format") != "sae-lens":
        return {}
    return as_metadata(index)


def _batches(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns of each batch of a file."""
    check_readable(path)
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield {
                        "tokens" if name == _TOKENS else name: _array(column, path, name)
                        for name, column in zip(batch.schema.names, batch.columns, strict=True)
                        if name == _TOKENS or is_hook(name)
                    }
    except (pa.ArrowException, OSError, ValueError) as e:
        raise UsageError(
            f"{printable_value(path)} is no whole file of a data set: {printable_value(first_line(e))}."
        ) from None


def _array(column: pa.Array, path: Path, name: str) -> np.ndarray:
    """Return a column of lists as one array, (rows, …); the values are not copied."""
    shape = [len(column)]
    values = column.storage if isinstance(column, pa.ExtensionArray) else column
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise UsageError(f"{printable_value(path)}: rows of {printable_value(name)} are of several sizes.")
        shape.append(lengths.pop())
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)
