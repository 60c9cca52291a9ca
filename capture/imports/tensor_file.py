"""Files with named tensors, read without executing anything in them: safetensors, .npz, and .pt by torch's `weights_only`."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from capture.data.files import check_readable, printable_value
from warehouse.errors import UsageError, first_line

_LENGTHS_AT = 26
"""Where in a member's own header of a zip file the lengths of its name and extra field stand, which end the header."""

ENDINGS = (".safetensors", ".pt", ".pth", ".npz")


@dataclass(frozen=True)
class TensorFile:
    """The named tensors of a file."""

    path: Path
    tensors: Mapping[str, np.ndarray]
    """By name; what lies in dictionaries and lists has the names on the way to it, with dots between them."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself."""


def as_metadata(said: Mapping[str, Any]) -> dict[str, str]:
    """Return what a file says of itself in JSON as safetensors has it, all texts; NULL is left out."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items() if v is not None}


def read_tensor_file(path: Path) -> TensorFile:
    """Read the tensors of a file, from a memory map where its kind allows that.

    Args:
        path: A file with one of `ENDINGS`.

    Returns:
        Its tensors.

    Raises:
        UsageError: The file is missing, damaged, of another kind, or holds more than tensors, names and numbers.
    """
    check_readable(path)
    try:
        match path.suffix.lower():
            case ".safetensors":
                return _read_safetensors(path)
            case ".npz":
                return TensorFile(path, _read_npz(path))
            case ".pt" | ".pth":
                return TensorFile(path, dict(_named("", _load_torch(path))))
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as e:  # RuntimeError: a password, another compression
        raise UsageError(f"{printable_value(path)} cannot be read: {first_line(e)}.") from None
    raise UsageError(f"{printable_value(path)}: tensors are read from {', '.join(ENDINGS)}.")


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    from warehouse.storage.blobs import Blob

    try:
        with safe_open(path, framework="numpy") as f:
            metadata, names = f.metadata() or {}, list(f.keys())
    except SafetensorError as e:
        raise UsageError(f"{printable_value(path)} is no whole safetensors file: {first_line(e)}.") from None
    blob = Blob(path)  # which knows bfloat16
    return TensorFile(path, {name: blob.tensor(name) for name in names}, metadata)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a file that `numpy.savez` wrote, once their checksums hold; those of a compressed one are read."""
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as stored:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} in it is damaged")
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        return {
            name: stored[name]
            if members[name].compress_type != zipfile.ZIP_STORED
            else _map_array(path, archive, members[name])
            for name in stored.files
        }


def _map_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Map an array that lies uncompressed in an archive."""
    with archive.open(member) as f:
        version = np.lib.format.read_magic(f)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(f)
        header = f.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which would have to be executed to be read")
    with path.open("rb") as f:
        f.seek(member.header_offset + _LENGTHS_AT)
        name_bytes, extra_bytes = struct.unpack("<HH", f.read(4))
    start = member.header_offset + _LENGTHS_AT + 4 + name_bytes + extra_bytes + header
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _load_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol, just before it is refused
            mapped = zipfile.is_zipfile(path)  # which torch writes since 1.6; older files are read whole
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{printable_value(path)} holds Python objects, which would have to be executed to be read. Save a dictionary of tensors, "
            "such as dict(cache), or safetensors."
        ) from None
    except RuntimeError as e:
        raise UsageError(f"{printable_value(path)} is no whole file of torch: {first_line(e)}.") from None


def _named(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors in a value, however deep, with their names; texts and numbers are passed over."""
    import ml_dtypes
    import torch

    if isinstance(value, torch.Tensor):
        whole = value.detach().contiguous()
        if whole.dtype == torch.bfloat16:
            yield name, whole.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            yield name, whole.numpy()
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _named(f"{name}.{key}" if name else str(key), inner)
