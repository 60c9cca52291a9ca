"""Token-packed safetensors shards: lay one out, fill one in place, slice one through a memory map.

A shard holds each tensor once, rows of all its examples end to end, no padding. How many rows each will have is known
before the first one is computed (texts are tokenized first), so every tensor has its place in the file from the start
and each batch is written straight there: a shard never exists in memory.

The file is plain safetensors: 8 bytes of header length, a JSON header, the tensors' bytes. Writing the header by hand is
what lets rows arrive batch by batch; `safetensors.safe_open` reads the result like any other file.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import ml_dtypes
import numpy as np

from warehouse.errors import CorruptRunError
from warehouse.storage import strict_json
from warehouse.storage.files import open_file

DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
}
"""safetensors' names of the dtypes that runs hold."""

NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
"""The same by torch's names."""

_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class TensorSpec:
    dtype: str
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


class ShardFile:
    """A shard being filled. `put` may come in any order of tensors and rows; all rows must have come before `close`."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorSpec], rows: Mapping[str, int]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "np"}}
        self._offsets: dict[str, int] = {}
        self._tensors = dict(tensors)
        end = 0
        for name, spec in tensors.items():
            start, end = end, end + rows[name] * spec.row_bytes
            header[name] = {"dtype": spec.dtype, "shape": [rows[name], *spec.row_shape], "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > _MAX_HEADER:
            raise ValueError(
                f"a shard of {len(tensors)} tensors has a header of {len(text)} bytes, over safetensors' limit"
            )
        self._base = 8 + len(text)
        self._missing = {name: rows[name] for name in tensors}
        self.path = path
        self.bytes = self._base + end
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_at(self._fd, memoryview(len(text).to_bytes(8, "little") + text), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def put(self, name: str, row: int, array: np.ndarray) -> None:
        """Writes `array` (n, *row_shape), C-contiguous and of the tensor's dtype, as rows `row` to `row + n`."""
        spec = self._tensors[name]
        if array.dtype != DTYPES[spec.dtype] or array.shape[1:] != spec.row_shape:
            raise ValueError(f"{name}: got {array.dtype}{array.shape[1:]}, its shard holds {spec}")
        start = self._base + self._offsets[name] + row * spec.row_bytes
        _write_at(self._fd, memoryview(array.reshape(-1).view(np.uint8)), start)
        self._missing[name] -= len(array)

    def close(self) -> None:
        """Makes the shard durable. Raises ValueError where rows are missing."""
        short = {name: n for name, n in self._missing.items() if n}
        if short:
            raise ValueError(f"{self.path.name} is not full: rows missing {short}")
        os.fsync(self._fd)
        self.abandon()

    def abandon(self) -> None:
        """Closes the file as it is; the journal doesn't name it, so the next process writes it anew."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


class Blob:
    """A shard open for reading: `rows` are views of the memory map, copied nowhere and read-only."""

    def __init__(self, path: Path) -> None:
        """Raises `CorruptRunError` for a file that is missing, cut short, or no safetensors file."""
        self.path = path
        try:
            with open_file(path) as f:
                size = os.fstat(f.fileno()).st_size
                if size < 8:
                    raise CorruptRunError(f"{path} is cut short: {size} bytes.")
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CorruptRunError(f"{path} is missing.") from None
        except OSError as e:
            raise CorruptRunError(f"{path} cannot be read: {e.strerror}.") from None
        length = int.from_bytes(self._map[:8], "little")
        if length > min(_MAX_HEADER, size - 8):
            raise CorruptRunError(f"{path} is cut short or not safetensors: it announces a header of {length} bytes.")
        try:
            header = strict_json.parse(self._map[8 : 8 + length])
            header.pop("__metadata__", None)
            self.tensors = {name: (t["dtype"], tuple(t["shape"])) for name, t in header.items()}
            end = max((t["data_offsets"][1] for t in header.values()), default=0)
            if size != 8 + length + end:
                raise CorruptRunError(
                    f"{path} has {size} bytes where its header tells of {8 + length + end}: cut short or altered."
                )
            self._starts = {name: 8 + length + int(t["data_offsets"][0]) for name, t in header.items()}
            self._views: dict[str, np.ndarray] = {}
            for name, (dtype, shape) in self.tensors.items():
                start, stop = header[name]["data_offsets"]
                if (
                    dtype not in DTYPES
                    or not 0 <= start <= stop
                    or stop - start != math.prod(shape) * DTYPES[dtype].itemsize
                ):
                    raise ValueError(f"{name} has {stop - start} bytes")
        except CorruptRunError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise CorruptRunError(f"{path} has a header that is no safetensors header: {e!r}.") from None

    def tensor(self, name: str) -> np.ndarray:
        """All its rows, `(n, *row_shape)`, a view."""
        if name not in self._views:
            if name not in self.tensors:
                raise CorruptRunError(f"{self.path} has no tensor {name}.")
            dtype, shape = self.tensors[name]
            flat = np.frombuffer(self._map, DTYPES[dtype], math.prod(shape), self._starts[name])
            self._views[name] = flat.reshape(shape)
        return self._views[name]

    def rows(self, tensor: str, start: int, end: int) -> np.ndarray:
        """`(end - start, *row_shape)`, a view."""
        view = self.tensor(tensor)
        if not 0 <= start <= end <= len(view):
            raise CorruptRunError(f"{self.path}: {tensor} has {len(view)} rows, rows {start} to {end} are asked for.")
        return view[start:end]

    def __enter__(self) -> Blob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._views.clear()
