"""Parts of a table: files of rows in the order of the table's key, such as each shard of a run has, and their merge into one order.

A part is an Arrow stream of small batches. It is read once, from its beginning to its end, so that nothing of it has to be in memory but the
batch that comes next, whose first key says which of the rows before it can go out.
"""

from __future__ import annotations

import heapq
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_BATCH_BYTES = 1 << 18
"""Bytes of the rows of a batch, about, at most: one of every part is in memory while they are merged."""
_PIECE, _PIECE_BYTES = 1 << 15, 1 << 24
"""Rows that are read before some go out, and their bytes, whichever is reached first."""
_PIECE_OF_A_PART = 1 << 8
"""Rows that these are at least for each part, since every part is looked at for every piece."""
_AT_ONCE = 128
"""Parts that are merged at once, at most: with more, they become fewer first."""

_WRITING = pa.ipc.IpcWriteOptions(compression="lz4")
_READING = pa.ipc.IpcReadOptions(use_threads=False)

_Value = tuple[int, Any]
"""A value that can be compared with others though it may be NULL: (0, value), or (1, None) where it is NULL, which comes last."""


def sort_rows(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return rows in the order of some columns, the first of them first; NULL comes last."""
    return rows.take(pc.sort_indices(rows, [(key, "ascending") for key in keys]))


def rows_within(most: int, rows: pa.Table) -> int:
    """Return how many of some rows have at most so many bytes, about; 1 at least."""
    return max(1, most * len(rows) // max(1, rows.nbytes))


def write_sorted(path: Path, schema: pa.Schema, pieces: Iterable[pa.Table]) -> None:
    """Write rows that are in order already to a part.

    Args:
        path: The file.
        schema: The rows' schema.
        pieces: The rows, in tables one after the other.
    """
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema, options=_WRITING) as stream:
        for piece in pieces:
            stream.write_table(piece, rows_within(_BATCH_BYTES, piece))


def read_part(path: Path) -> pa.Table:
    """Return all rows of a part."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_stream(file).read_all()


def merge_parts(parts: Sequence[Path], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Merge parts of a table, in little memory however many there are; where there are many, by way of files beside the first.

    Args:
        parts: The parts, each sorted by `keys`, of one schema.
        keys: The columns of the order.

    Yields:
        The rows in order; no table is empty.
    """
    if len(parts) <= _AT_ONCE:
        yield from _merge(parts, keys)
        return
    with tempfile.TemporaryDirectory(prefix="merge-", dir=parts[0].parent) as folder:
        schema = _Reader(parts[0], keys).schema
        merged = list[Path]()
        for first in range(0, len(parts), _AT_ONCE):
            merged.append(Path(folder) / f"{len(merged)}.arrow")
            write_sorted(merged[-1], schema, _merge(parts[first : first + _AT_ONCE], keys))
        yield from merge_parts(merged, keys)


def _merge(parts: Sequence[Path], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what `merge_parts` does, of parts that are all open at once."""
    unread = [reader for part in parts for reader in [_Reader(part, keys)] if reader.batch is not None]
    heapq.heapify(unread)
    waiting: list[tuple[_Reader, pa.RecordBatch]] = []
    most = max(_PIECE, _PIECE_OF_A_PART * len(unread))
    while unread or waiting:
        count = size = 0
        while unread and count < most and size < _PIECE_BYTES:
            reader = unread[0]
            batch = reader.next()
            waiting.append((reader, batch))
            count, size = count + len(batch), size + batch.nbytes
            if reader.batch is None:
                heapq.heappop(unread)
            else:
                heapq.heapreplace(unread, reader)
        ends = [_count_below(batch, keys, unread[0].key) if unread else len(batch) for _, batch in waiting]
        ready = [(of, batch.slice(0, end)) for (of, batch), end in zip(waiting, ends, strict=True) if end]
        waiting = [(of, batch.slice(end)) for (of, batch), end in zip(waiting, ends, strict=True) if end < len(batch)]
        if ready:
            rows = pa.Table.from_batches([batch for _, batch in ready]).combine_chunks()
            yield rows if len({of for of, _ in ready}) == 1 else sort_rows(rows, keys)


class _Reader:
    """A part that is being read; of two, the one whose next row comes first is the less."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self._stream = pa.ipc.open_stream(pa.OSFile(str(path), "rb"), options=_READING)
        self._keys = keys
        self.schema: pa.Schema = self._stream.schema
        self.batch: pa.RecordBatch | None = None
        """The rows that come next; None: there are no more."""
        self.key: list[_Value] = []
        """The first key of them."""
        self._read()

    def __lt__(self, other: _Reader) -> bool:
        return self.key < other.key

    def next(self) -> pa.RecordBatch:
        """Return the rows that come next, which there are, and read those after them."""
        batch = self.batch
        self._read()
        return batch

    def _read(self) -> None:
        self.batch = None
        for batch in self._stream:
            if len(batch):
                self.batch, self.key = batch, [_value(batch[key], 0) for key in self._keys]
                return


def _value(column: pa.Array, row: int) -> _Value:
    value = column[row].as_py()
    return (1, None) if value is None else (0, value)


def _count_below(batch: pa.RecordBatch, keys: Sequence[str], least: Sequence[_Value]) -> int:
    """Return how many rows of a sorted batch have a key that is less than another."""
    rows, first, end = range(len(batch)), 0, len(batch)
    for key, value in zip(keys, least, strict=True):  # the rows from first to end have the values of the keys before
        of_row = partial(_value, batch[key])
        first = bisect_left(rows, value, first, end, key=of_row)
        if first == end or of_row(first) != value:
            break
        end = bisect_right(rows, value, first, end, key=of_row)
    return first
