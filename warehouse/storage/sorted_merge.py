"""Merge sorted files of a table into the order of one, a piece at a time.

In go Parquet files of a table, such as those of a run's shards. Out come its rows in the order of the table's key, in tables of about a
row group. Row groups are read in the order of their least keys, so that all rows below the least key of those not yet read can go out,
and only they are sorted. What is in memory is a piece, and of every file a row group. Files that are not sorted are merged as well, but
then all of their rows are in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.storage.files import parquet_source
from warehouse.storage.objects import AnyPath

_PIECE, _PIECE_BYTES = 1 << 15, 1 << 25
"""Rows that are read before some go out, and their bytes, whichever is reached first."""
_PIECE_OF_A_FILE = 1 << 10
"""Rows that these are at least for each file, since every file is looked at for every piece."""


def sort_rows(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return rows in the order of some columns, the first of them first; NULL comes last."""
    return rows.take(pc.sort_indices(rows, [(key, "ascending") for key in keys]))


def merge_sorted(files: Iterable[Path], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Merge files of a table.

    Args:
        files: The files, each sorted by `keys` if little memory is to be used.
        keys: The columns of the order.

    Yields:
        The rows in order; no table is empty.
    """
    groups = [
        _Group(file, footer, i)
        for file in files
        for footer in [pq.read_metadata(file)]
        for i in range(footer.num_row_groups)
    ]
    groups = [group for group in groups if group.rows]
    cut_by = next((key for key in keys if len({end for g in groups for end in g.ends(key)}) > 1), keys[-1])
    unread = deque(sorted((g.ends(cut_by)[0], n) for n, g in enumerate(groups)))
    waiting: list[pa.Table] = []
    piece = max(_PIECE, _PIECE_OF_A_FILE * len({g.file for g in groups}))
    while unread or waiting:
        count = size = 0
        while unread and ((count < piece and size < _PIECE_BYTES) or unread[0][0] == _UNKNOWN):
            waiting.append(groups[unread.popleft()[1]].read(cut_by, keys))
            count, size = count + len(waiting[-1]), size + waiting[-1].nbytes
        ends = [_count_below(rows[cut_by], unread[0][0]) if unread else len(rows) for rows in waiting]
        ready = [rows.slice(0, end) for rows, end in zip(waiting, ends, strict=True) if end]
        waiting = [rows.slice(end) for rows, end in zip(waiting, ends, strict=True) if end < len(rows)]
        if ready:
            yield sort_rows(pa.concat_tables(ready).combine_chunks(), keys)


def all_ascend(files: Iterable[AnyPath], keys: Sequence[str]) -> bool:
    """Tell whether every row of some files has a greater key than the row before it; then no two have the same."""
    before: pa.Table | None = None
    for file in files:
        for batch in pq.ParquetFile(parquet_source(file)).iter_batches(_PIECE, columns=list(keys), use_threads=False):
            rows = pa.Table.from_batches([batch])
            both = pa.concat_tables([before, rows]).combine_chunks() if before is not None else rows
            if len(both) > 1 and not _ascend(both, keys):
                return False
            before = both.slice(len(both) - 1) if len(both) else before
    return True


def _ascend(rows: pa.Table, keys: Sequence[str]) -> bool:
    """Tell whether every row has a greater key than the one before it; NULL is greater than all else."""
    greater: Any = pa.scalar(False)
    for key in reversed(keys):
        column = rows[key].combine_chunks()
        a, b = column[:-1], column[1:]
        if column.null_count:
            more = pc.if_else(pc.is_null(a), False, pc.fill_null(pc.less(a, b), True))
            same = pc.if_else(pc.and_(pc.is_null(a), pc.is_null(b)), True, pc.fill_null(pc.equal(a, b), False))
        else:
            more, same = pc.less(a, b), pc.equal(a, b)
        greater = pc.or_(more, pc.and_(same, greater))
    return bool(pc.all(greater).as_py())


_Value = tuple[int, Any]
"""A value that can be compared with others that may be NULL: (0, value), (1, ) where it is NULL, which comes last."""
_UNKNOWN: _Value = (-1, None)
"""What comes before all values."""


@dataclass(frozen=True, eq=False)
class _Group:
    """A row group of a file."""

    file: Path
    footer: pq.FileMetaData
    number: int

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return int(self.footer.row_group(self.number).num_rows)

    def ends(self, column: str) -> tuple[_Value, _Value]:
        """Return a value that none of a column's is less than, and one that none is greater than."""
        known = self.footer.row_group(self.number).column(self.footer.schema.names.index(column)).statistics
        if known is None or not known.has_min_max or not known.has_null_count:
            return _UNKNOWN, (1, None)
        return (0, known.min), ((1, None) if known.null_count else (0, known.max))

    def read(self, cut_by: str, keys: Sequence[str]) -> pa.Table:
        """Return its rows, sorted."""
        file = pq.ParquetFile(self.file, metadata=self.footer)
        rows = file.read_row_group(self.number, use_threads=False).combine_chunks()
        column = rows[cut_by]
        ordered = pc.all(pc.less_equal(column[:-1], column[1:]), skip_nulls=False).as_py()
        return rows if ordered else sort_rows(rows, keys)


def _count_below(column: pa.ChunkedArray, least: _Value) -> int:
    """Return how many values of a sorted column are less than a value."""
    return bisect_left(column.chunk(0), least, key=lambda v: (0, v.as_py()) if v.is_valid else (1, None))
