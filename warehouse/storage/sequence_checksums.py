"""The checksum of a sequence's tensors: one for all its slices, which tells which of them was altered.

It has 32 hex digits. The first 16 are the sum of the slices' xxh3-64, the last 16 the sum of each times its tensor's weight, a number
made of the tensor's name; both are modulo 2^64. Where one slice is altered, and its xxh3-64 is d more, the sums are d and weight · d
more: that names the tensor. One checksum a slice would be nearly all of the tensor index.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import xxhash

SEQUENCE_CHECKSUMS_SINCE = 9
"""The first schema version whose tensor index has them; before, every slice has its own xxh3-64."""


def slice_digests(rows: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the xxh3-64 of slices of a tensor.

    Args:
        rows: (n, …), C-contiguous.
        start: The first row of every slice, (S,).
        end: One past its last row.

    Returns:
        (S,) uint64.
    """
    octets, size = memoryview(rows.reshape(-1).view(np.uint8)), rows[:1].nbytes
    digest, places = xxhash.xxh3_64_intdigest, zip((start * size).tolist(), (end * size).tolist(), strict=True)
    return np.fromiter((digest(octets[a:b]) for a, b in places), np.uint64, len(start))


class SequenceSums:
    """The checksums of some sequences, tensor by tensor."""

    def __init__(self, n: int) -> None:
        """Begin with nothing for n sequences."""
        self.values = np.zeros((n, 2), np.uint64)

    def add(self, tensor: str, digests: np.ndarray, sequence: np.ndarray | slice = slice(None)) -> None:
        """Add slices of a tensor, their digests and the numbers of their sequences, each of which has one at most."""
        self.values[sequence] += digests[:, None] * _weights(tensor)


def to_hex(sums: np.ndarray) -> pa.StringArray:
    """Return checksums, (n, 2) uint64, as 32 hex digits each."""
    digits = sums.astype(">u8").tobytes().hex().encode()
    return pa.array(np.frombuffer(digits, "S32")).cast(pa.string())


def from_hex(checksums: Iterable[str]) -> np.ndarray:
    """Return checksums as numbers, (n, 2) uint64.

    Raises:
        ValueError: One of them is not 32 hex digits.
    """
    return np.frombuffer(bytes.fromhex("".join(checksums)), ">u8").reshape(-1, 2).astype(np.uint64)


def altered_tensors(difference: np.ndarray, tensors: Iterable[str]) -> list[str]:
    """Return which of some tensors can alone have made a difference of a sequence's checksum, (2,) uint64."""
    return [name for name in tensors if (difference[:1] * _weights(name) == difference).all()]


def _weights(tensor: str) -> np.ndarray:
    return np.array([1, xxhash.xxh3_64_intdigest(tensor.encode())], np.uint64)
