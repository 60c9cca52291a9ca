"""Write a shard with coded tensors, from one that has them as they were recorded.

In goes the shard that rows were written to as they came, outside of the run's folder; out comes the shard that the run keeps, with
int8 codes and their companions (`warehouse.storage.int8`). A shard is coded when it is complete: each dimension's range is then
that of all its rows, and follows from them alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash

from warehouse.storage.blobs import DTYPES, Blob, write_at
from warehouse.storage.int8 import CODED, COMPANIONS, Encoder, companion

COMPANIONS_CHECKSUM = "companions_xxh3_128"
"""The header's metadata: a checksum of all companions, which belong to no sequence."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST = 1 << 60
"""More than any number of the header: room is kept for it where the number is not known before all rows are coded."""


def write_coded(source: Path, target: Path, first_rows: Mapping[str, np.ndarray]) -> None:
    """Write a shard, durable on return.

    Args:
        source: The shard as recorded.
        target: The file to write.
        first_rows: By the name of each tensor to code: the numbers of its sequences' first rows, ascending.
    """
    with Blob(source) as blob:
        header: dict[str, dict[str, object]] = {}
        starts: dict[str, int] = {}
        end = 0

        def place(name: str, dtype: str, shape: tuple[int, ...]) -> None:
            nonlocal end
            starts[name], end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [starts[name], end]}

        for name, (dtype, shape) in blob.tensors.items():
            place(name, CODED if name in first_rows else dtype, shape)
        most: dict[str, dict[str, object]] = {companion(n, c): {"dtype": "BF16", "shape": [_MOST, *blob.tensors[n][1]], "data_offsets": [_MOST, _MOST]}
                for n in first_rows for c in COMPANIONS}  # fmt: skip
        reserved = -(-len(_encode(header | most, "0" * 32)) // 8) * 8
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            companions: dict[str, np.ndarray] = {}
            for name in blob.tensors:
                at = 8 + reserved + starts[name]
                if name not in first_rows:
                    write_at(fd, _octets(blob.tensor(name)), at)
                    continue
                encoder = Encoder(blob.tensor(name), first_rows[name])
                for codes in encoder:
                    write_at(fd, _octets(codes), at)
                    at += codes.nbytes
                companions |= {companion(name, c): array for c, array in encoder.companions().items()}
                blob.release_pages()
            for name, array in companions.items():
                place(name, _NAMES[array.dtype], array.shape)
                write_at(fd, _octets(array), 8 + reserved + starts[name])
            text = _encode(header, companions_checksum(companions)).ljust(reserved)
            write_at(fd, memoryview(reserved.to_bytes(8, "little") + text), 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def companions_checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the checksum of a shard's companions, by their names in it."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(_octets(tensors[name]))
    return digest.hexdigest()


def _encode(header: Mapping[str, object], checksum: str) -> bytes:
    whole = {"__metadata__": {"format": "np", COMPANIONS_CHECKSUM: checksum}, **header}
    return json.dumps(whole, separators=(",", ":")).encode()


def _octets(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))
