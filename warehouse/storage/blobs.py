"""Token-packed safetensors shards: lay one out, fill it in place, slice it through a memory map.

A shard holds each tensor once, rows of all its examples end to end, no padding. How many rows each will have is known
before the first one is computed (texts are tokenized first), so every tensor has its place in the file from the start
and each batch is written straight there: a shard is never held in memory.

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
from typing import Any

import ml_dtypes
import numpy as np

from warehouse.errors import CorruptRunError, StoreError
from warehouse.schema.sites import TOKEN
from warehouse.storage import strict_json
from warehouse.storage.files import open_file
from warehouse.storage.int8 import CODED, COMPANIONS, CodedRows, companion
from warehouse.storage.objects import AnyPath, ObjectPath

DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    CODED: np.dtype(np.int8),
    "I64": np.dtype(np.int64),
}
"""The dtypes that shards hold, by safetensors' names: the last two are of coded tensors and their companions."""

NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "int8": CODED}
"""safetensors' names of the dtypes that tensors can be stored in, by torch's names."""

_MAX_HEADER = 100_000_000  # safetensors' own limit
_FIRST = 1 << 16
"""Bytes of an object that are asked for first: the header, mostly."""
_AHEAD = 4 << 20
"""Bytes of an object that are asked for at once where rows follow each other."""


@dataclass(frozen=True)
class TensorSpec:
    """What the rows of a stored tensor are made of."""

    dtype: str
    """As safetensors names it."""
    row_shape: tuple[int, ...]
    row_kind: str = TOKEN
    """What a row is, as `warehouse.schema.sites` names it: a token, a pair of tokens, …"""
    coded: bool = False
    """Whether the rows are stored as int8 codes; `dtype` is then what they are recorded in."""

    @property
    def stored_dtype(self) -> str:
        """The dtype of the tensor in a shard, as safetensors names it."""
        return CODED if self.coded else self.dtype

    @property
    def stored_row_bytes(self) -> int:
        """The size of a row in a shard, without what lies beside codes, in bytes."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * DTYPES[self.stored_dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """The size of a row as it is recorded, in bytes."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


class ShardFile:
    """A shard being filled: `put` takes tensors and rows in any order, and `close` checks that all have come."""

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorSpec],
        rows: Mapping[str, int],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Create the file and write its header.

        Args:
            path: The file; an existing one is replaced.
            tensors: The dtype and row shape of every tensor, by name.
            rows: The number of rows of every tensor.
            metadata: What the header says besides; None: that numpy can read it.

        Raises:
            ValueError: There are so many tensors that the header would be over safetensors' limit.
        """
        header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "np"})}
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
            write_at(self._fd, memoryview(len(text).to_bytes(8, "little") + text), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def put(self, name: str, row: int, array: np.ndarray) -> None:
        """Write rows of a tensor.

        Args:
            name: The tensor.
            row: The first row to write.
            array: (n, *row_shape), C-contiguous and of the tensor's dtype.

        Raises:
            ValueError: The array has another dtype or shape.
        """
        spec = self._tensors[name]
        if array.dtype != DTYPES[spec.dtype] or array.shape[1:] != spec.row_shape:
            raise ValueError(f"{name}: got {array.dtype}{array.shape[1:]}, its shard holds {spec}")
        start = self._base + self._offsets[name] + row * spec.row_bytes
        write_at(self._fd, memoryview(array.reshape(-1).view(np.uint8)), start)
        self._missing[name] -= len(array)

    def close(self, durable: bool = True) -> None:
        """Finish the shard, and see it on the disk if it is to be durable.

        Raises:
            ValueError: Rows are missing.
        """
        short = {name: n for name, n in self._missing.items() if n}
        if short:
            raise ValueError(f"{self.path.name} is not full: rows missing {short}")
        if durable:
            os.fsync(self._fd)
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is; no journal line names it, so the next process writes it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write bytes at a place in an open file."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


class Blob:
    """A shard open for reading: its rows are read-only views of a memory map, or of an object's bytes, asked for as they are needed.

    Rows of a coded tensor are made of its codes as they are read.
    """

    def __init__(self, path: AnyPath) -> None:
        """Map the file and read its header; of an object, only the header is read.

        Raises:
            CorruptRunError: The file is missing, cut short, or not safetensors.
            StoreError: The store does not show it.
        """
        self.path = path
        self._map: mmap.mmap | None = None
        try:
            if isinstance(path, ObjectPath):
                start, size = path.read_start(_FIRST)
            else:
                with open_file(path) as f:
                    size = os.fstat(f.fileno()).st_size
                    if size >= 8:
                        self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
                        start = memoryview(self._map)
        except FileNotFoundError:
            raise CorruptRunError(f"{path} is missing.") from None
        except StoreError:
            raise
        except OSError as e:
            raise CorruptRunError(f"{path} cannot be read: {e.strerror}.") from None
        if size < 8:
            raise CorruptRunError(f"{path} is cut short: {size} bytes.")
        length = int.from_bytes(start[:8], "little")
        if length > min(_MAX_HEADER, size - 8):
            raise CorruptRunError(f"{path} is cut short or not safetensors: it announces a header of {length} bytes.")
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        """Every tensor's dtype and shape, as its header says; a coded one is I8."""
        self.metadata: dict[str, str] = {}
        """What the header says besides."""
        self.companions: dict[str, tuple[str, tuple[int, ...]]] = {}
        """The same of what lies beside coded tensors."""
        self._coded: dict[str, CodedRows] = {}
        self._starts: dict[str, int] = {}
        self._views: dict[str, np.ndarray] = {}
        self._ahead: dict[str, tuple[int, np.ndarray]] = {}
        """For tensors of an object that are read from end to end: rows that came with others, and the number of the first."""
        self._next: dict[str, int] = {}
        """For tensors of an object, the row after those that were read last."""
        if isinstance(path, ObjectPath) and len(start) < 8 + length:
            start = path.read_range(0, 8 + length)
        try:
            header = strict_json.parse(bytes(start[8 : 8 + length]))
            self.metadata = dict(header.pop("__metadata__", {}))
            end = max((t["data_offsets"][1] for t in header.values()), default=0)
            whole = size == 8 + length + end
            for name, entry in header.items() if whole else ():
                self._add(name, entry, 8 + length)
            for name in [n for n, (dtype, _) in self.tensors.items() if dtype == CODED]:
                self.companions |= {n: self.tensors.pop(n) for n in (companion(name, x) for x in COMPANIONS)}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise CorruptRunError(f"{path} has a header that is not safetensors: {e!r}.") from None
        if not whole:
            raise CorruptRunError(
                f"{path} has {size} bytes where its header says {8 + length + end}: cut short or altered."
            )

    def _add(self, name: str, entry: dict[str, Any], base: int) -> None:
        """Take over a tensor of the header; `base` is where the tensors' bytes begin in the file.

        Raises:
            ValueError: The tensor's shape does not fit its bytes.
        """
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if dtype not in DTYPES or not 0 <= start <= stop or stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
            raise ValueError(f"{name} has {stop - start} bytes")
        self.tensors[name] = (dtype, shape)
        self._starts[name] = base + int(start)

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype that a tensor's rows are read in: float32 where they are coded."""
        stored = DTYPES[self._held(name)[0]]
        return np.dtype(np.float32) if stored == DTYPES[CODED] else stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, rows first."""
        return self._held(name)[1]

    def _held(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return the dtype and shape of a tensor, or of a companion.

        Raises:
            CorruptRunError: The shard has none of that name.
        """
        held = self.tensors.get(name) or self.companions.get(name)
        if held is None:
            raise CorruptRunError(f"{self.path} has no tensor {name}.")
        return held

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as it lies in the shard, (n, *row_shape), a view: the codes of a coded one.

        Raises:
            CorruptRunError: The shard has no such tensor.
        """
        if name not in self._views:
            dtype, shape = self._held(name)
            if self._map is None:
                return self._fetch(name, 0, shape[0])
            flat = np.frombuffer(self._map, DTYPES[dtype], math.prod(shape), self._starts[name])
            self._views[name] = flat.reshape(shape)
        return self._views[name]

    def rows(self, tensor: str, start: int, end: int) -> np.ndarray:
        """Return rows `start` to `end` of a tensor, (end - start, *row_shape): a view, or float32 of a coded one.

        Raises:
            CorruptRunError: The tensor does not have those rows.
        """
        stored, coded = self._stored_rows(tensor, start, end), self._decoder(tensor)
        return stored if coded is None else coded.decode(stored, start)

    def take_into(self, out: np.ndarray, tensor: str, rows: np.ndarray, head: int | None = None) -> None:
        """Read rows of a tensor by their numbers, which must exist; of an object, in one request from the lowest to the highest.

        Args:
            out: What is filled, (len(rows), *row_shape), or (len(rows), d) of one head.
            tensor: The tensor.
            rows: The numbers of the rows, one at least.
            head: A head as the tensor counts them; None reads whole rows.
        """
        n, coded = self._held(tensor)[1][0], self._decoder(tensor)
        low, high = (0, n) if self._map is not None else (int(rows.min()), int(rows.max()) + 1)
        view = self._stored_rows(tensor, low, high)
        if coded is not None:
            taken = coded.decode_chosen(view[rows - low], rows)
            out[...] = taken if head is None else taken[:, head]
            return
        view = view if head is None else view[:, head]
        if view.dtype == out.dtype:  # clip: all rows exist, and only then does numpy write straight into `out`
            np.take(view, rows - low if low else rows, axis=0, out=out, mode="clip")
        else:
            out[...] = view[rows - low]

    def _decoder(self, name: str) -> CodedRows | None:
        """Return what reads a coded tensor; None for any other.

        Raises:
            CorruptRunError: Its companions do not fit it.
        """
        if self._held(name)[0] != CODED:
            return None
        if name not in self._coded:
            coded = CodedRows(self._held(name)[1], self._companions(name))
            if fault := coded.fault():
                raise CorruptRunError(f"{self.path}: {name} {fault}.")
            self._coded[name] = coded
        return self._coded[name]

    def _companions(self, name: str) -> dict[str, np.ndarray]:
        """Return what lies beside a coded tensor, by `COMPANIONS`; of an object, in one request."""
        names = [companion(name, x) for x in COMPANIONS]
        if self._map is not None:
            return {x: self.tensor(n) for x, n in zip(COMPANIONS, names, strict=True)}
        sizes = [math.prod(self._held(n)[1]) * DTYPES[self._held(n)[0]].itemsize for n in names]
        first = min(self._starts[n] for n in names)
        octets = self._read_range(first, max(self._starts[n] + size for n, size in zip(names, sizes, strict=True)))
        return {
            x: np.frombuffer(octets, DTYPES[dtype], math.prod(shape), self._starts[n] - first).reshape(shape)
            for x, n in zip(COMPANIONS, names, strict=True)
            for dtype, shape in (self._held(n),)
        }

    def _stored_rows(self, tensor: str, start: int, end: int) -> np.ndarray:
        """Return rows of a tensor as they lie in the shard.

        Raises:
            CorruptRunError: The tensor does not have those rows.
        """
        n = self._held(tensor)[1][0]
        if not 0 <= start <= end <= n:
            raise CorruptRunError(f"{self.path}: {tensor} has {n} rows, not rows {start} to {end}.")
        return self.tensor(tensor)[start:end] if self._map is not None else self._rows_of_object(tensor, start, end)

    def _rows_of_object(self, tensor: str, start: int, end: int) -> np.ndarray:
        """Return rows of a tensor of an object: these alone, but where they follow those before, more come in the same request."""
        first, ahead = self._ahead.get(tensor, (0, np.empty(0)))
        if not first <= start <= end <= first + len(ahead):
            first, last = start, end
            if self._next.get(tensor) == start and start < end:
                dtype, (n, *row_shape) = self.tensors[tensor]
                last = min(n, max(end, start + _AHEAD // TensorSpec(dtype, tuple(row_shape)).row_bytes))
            ahead = self._fetch(tensor, first, last)
            self._ahead.pop(tensor, None)
            if last > end:
                self._ahead[tensor] = first, ahead
        self._next[tensor] = end
        return ahead[start - first : end - first]

    def _fetch(self, tensor: str, start: int, end: int) -> np.ndarray:
        """Return rows of a tensor of an object, in one request."""
        dtype, (_, *row_shape) = self._held(tensor)
        row_bytes = TensorSpec(dtype, tuple(row_shape)).row_bytes
        if start == end:
            return np.empty((0, *row_shape), DTYPES[dtype])
        base = self._starts[tensor]
        octets = self._read_range(base + start * row_bytes, base + end * row_bytes)
        return np.frombuffer(octets, DTYPES[dtype]).reshape(end - start, *row_shape)

    def _read_range(self, start: int, end: int) -> memoryview:
        """Return bytes of an object.

        Raises:
            CorruptRunError: The object is gone.
        """
        assert isinstance(self.path, ObjectPath)
        try:
            return self.path.read_range(start, end)
        except FileNotFoundError:
            raise CorruptRunError(f"{self.path} is missing.") from None

    def release_pages(self) -> None:
        """Give back the memory that holds what has been read so far; what is read again is fetched from the disk, or its cache."""
        self._ahead.clear()
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> Blob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._views.clear()
        self._coded.clear()
