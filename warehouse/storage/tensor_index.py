"""TensorIndex: which rows of which shard hold a sequence, from the rows of the table `tensors` that are of one tensor.

In goes the table and a tensor's name. Out comes the place of one sequence (`find`), or those of all, as columns (`places`). A row
group of the table is read when the first of its examples is asked for, and kept as columns of numbers, 40 bytes a sequence: the first
look-up costs the same whatever the run's size, and later ones in that row group a binary search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.errors import CorruptRunError
from warehouse.storage.sorted_table import RowGroup, SortedTable

Place = tuple[str, int, int]
"""A shard, the first row there, and one past the last."""

_RECENT = 1 << 14
"""Places that are found again without a search."""


@dataclass(frozen=True)
class Places:
    """Where the rows of many sequences lie: arrays with an element a sequence, in the order of the shards and of the rows there."""

    example_id: pa.StringArray
    seq: np.ndarray
    blobs: list[str]
    """The names of the shards, sorted."""
    blob: np.ndarray
    """The number of the shard in `blobs`."""
    start: np.ndarray
    """The first row there."""
    end: np.ndarray
    """One past the last."""

    def spans(self) -> Iterator[Place]:
        """Return every shard with the lowest row and the highest end of its sequences."""
        first = np.flatnonzero(np.diff(self.blob, prepend=-1))
        low = np.minimum.reduceat(np.minimum(self.start, self.end), first)
        high = np.maximum.reduceat(np.maximum(self.start, self.end), first)
        for number, start, end in zip(self.blob[first].tolist(), low.tolist(), high.tolist(), strict=True):
            yield self.blobs[number], start, end


@dataclass(frozen=True)
class _Part:
    """The places of a row group's sequences."""

    keys: np.ndarray
    """(n,) bytes, sorted: the example's id, filled up with zeros to `width`, and the number of the sequence in four bytes."""
    width: int
    blobs: list[str]
    blob: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def find(self, example_id: str, seq: int) -> Place | None:
        """Return where a sequence's rows lie; None where they are not in this row group."""
        octets = example_id.encode()
        if len(octets) > self.width:
            return None
        key = np.array(octets.ljust(self.width, b"\0") + seq.to_bytes(4), self.keys.dtype)
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        return self.blobs[self.blob[at]], int(self.start[at]), int(self.end[at])


class TensorIndex:
    """The places of a run's sequences in one tensor."""

    def __init__(self, table: SortedTable, tensor: str) -> None:
        """Take the table `tensors` of a run and the name of a tensor; nothing is read yet."""
        self._table, self._tensor = table, tensor
        self._parts: dict[RowGroup, _Part] = {}
        self._recent: dict[tuple[str, int], Place] = {}

    def known(self, example_id: str, seq: int) -> Place | None:
        """Return where a sequence's rows lie if it was found of late; this reads nothing."""
        return self._recent.get((example_id, seq))

    def find(self, example_id: str, seq: int) -> Place | None:
        """Return where a sequence's rows lie; None where the table has none of it."""
        for group in self._table.groups_with(example_id) if 0 <= seq < 1 << 31 else ():
            if place := self._part(group).find(example_id, seq):
                if len(self._recent) >= _RECENT:
                    self._recent.clear()
                self._recent[example_id, seq] = place
                return place
        return None

    def places(self) -> Places:
        """Return the places of all sequences that have rows."""
        parts = [p for group in self._table.row_groups if len((p := self._part(group)).keys)]
        if not parts:
            none = np.zeros(0, np.int64)
            return Places(pa.array([], pa.string()), none, [], none, none, none)
        blobs = sorted({name for p in parts for name in p.blobs})
        number = {name: i for i, name in enumerate(blobs)}
        columns = ((*_split(p), np.array([number[name] for name in p.blobs])[p.blob], p.start, p.end) for p in parts)
        ids, seq, blob, start, end = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.flatnonzero(end != start)
        order = order[np.lexsort((start[order], blob[order]))]
        return Places(pa.array(ids[order]).cast(pa.string()), seq[order], blobs, blob[order], start[order], end[order])

    def _part(self, group: RowGroup) -> _Part:
        if group not in self._parts:
            self._parts[group] = _read_part(group, self._tensor)
        return self._parts[group]


def _read_part(group: RowGroup, tensor: str) -> _Part:
    """Read the places of a row group's sequences in a tensor; raise CorruptRunError where they are not sorted."""
    rows = group.read(["example_id", "seq", "tensor", "blob", "row_start", "row_end"], ["tensor", "blob"])
    tensors, blobs = rows["tensor"].chunk(0), rows["blob"].chunk(0)
    at = np.flatnonzero(tensors.indices.to_numpy() == tensors.dictionary.index(tensor).as_py())
    ids = rows["example_id"].chunk(0).take(pa.array(at))
    lengths = pc.binary_length(ids).to_numpy()
    width = int(lengths.max(initial=1))
    octets = np.zeros((len(at), width + 4), np.uint8)
    written = np.frombuffer(ids.buffers()[2] or b"", np.uint8)
    if (lengths == width).all():  # as ids that a capture made are
        octets[:, :width] = written.reshape(-1, width)
    else:
        octets[:, :width][np.arange(width) < lengths[:, None]] = written
    octets[:, width:] = rows["seq"].to_numpy()[at].astype(">i4")[:, None].view(np.uint8)
    keys = octets.view(f"S{width + 4}")[:, 0]
    if (keys[1:] <= keys[:-1]).any():
        raise CorruptRunError(f"{group.file} has rows that are out of order.")
    start, end = (rows[name].to_numpy()[at] for name in ("row_start", "row_end"))
    return _Part(keys, width, blobs.dictionary.to_pylist(), blobs.indices.to_numpy()[at], start, end)


def _split(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Return the example ids, bytes, and the numbers of the sequences of a part's keys."""
    octets = part.keys[:, None].view(np.uint8)
    ids = np.ascontiguousarray(octets[:, : part.width]).view(f"S{part.width}")[:, 0]
    return ids, np.ascontiguousarray(octets[:, part.width :]).view(">i4")[:, 0].astype(np.int32)
