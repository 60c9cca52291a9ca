"""SortedTable: the rows of one example in a table whose files are sorted by example, without reading the others.

In go the files of a table of a published run, whose first key is `example_id`. Parquet notes the least and the greatest id of every row
group; those say which row group has an example, and no other is read. Nothing is kept but the files' footers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, takewhile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.errors import CorruptRunError
from warehouse.schema.quoting import sql_text
from warehouse.storage.files import parquet_source
from warehouse.storage.objects import AnyPath

_RANGE = 2
"""Row groups whose examples are asked at once."""


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Some consecutive rows of a file, which Parquet reads at once."""

    file: AnyPath
    footer: pq.FileMetaData
    number: int

    @property
    def least(self) -> str:
        """The first of its example ids."""
        return self._ends[0]

    @property
    def greatest(self) -> str:
        """The last of its example ids."""
        return self._ends[1]

    @cached_property
    def _ends(self) -> tuple[str, str]:
        """The first and the last of its example ids.

        Raises:
            CorruptRunError: The file does not say.
        """
        column = self.footer.schema.names.index("example_id")
        ids = self.footer.row_group(self.number).column(column).statistics
        if ids is None or not ids.has_min_max:
            raise CorruptRunError(f"{self.file} does not say which examples its rows are of.")
        return ids.min, ids.max

    def read(self, columns: Sequence[str], as_codes: Sequence[str] = ()) -> pa.Table:
        """Return some columns of its rows; of those `as_codes`, each value once and for every row a number, which takes less time."""
        file = pq.ParquetFile(parquet_source(self.file), metadata=self.footer, read_dictionary=list(as_codes))
        return file.read_row_group(self.number, columns=list(columns), use_threads=False).combine_chunks()


class SortedTable:
    """A table of a published run, read by example."""

    def __init__(self, files: Sequence[AnyPath], schema: pa.Schema) -> None:
        """Take the table's files, in order, and the schema of its rows; nothing is read yet."""
        self._files, self._schema = files, schema

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        """The row groups of all files, in the order of the rows."""
        found = []
        for file in self._files:
            footer = pq.read_metadata(parquet_source(file))
            found += [
                RowGroup(file, footer, number) for number in range(footer.num_row_groups if footer.num_rows else 0)
            ]
        return found

    def groups_with(self, example_id: str) -> Iterator[RowGroup]:
        """Return the row groups that can have an example: one, or several where its rows go on from one to the next."""
        return takewhile(lambda g: g.least <= example_id, self.row_groups[self._first(example_id) :])

    def rows(self, example_id: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of an example's rows, in order."""
        found = [pa.schema([self._schema.field(c) for c in columns]).empty_table()]
        for group in self.groups_with(example_id):
            at = pc.indices_nonzero(pc.equal(group.read(["example_id"])["example_id"], example_id))
            if len(at):
                found.append(group.read(columns).take(at))
        return pa.concat_tables(found[1:] or found)

    def ids_near(self, example_id: str, before: int, after: int) -> list[str]:
        """Return the ids around the place that an id has or would have.

        Args:
            example_id: The id, or the beginning of one.
            before: The most ids that are less.
            after: The most ids that are not less.

        Returns:
            The ids, in order.
        """
        found: dict[str, None] = {}
        for group in self.row_groups[max(0, self._first(example_id) - 1) :]:
            found |= dict.fromkeys(pc.unique(group.read(["example_id"])["example_id"]).to_pylist())
            if len(found) - bisect_left(list(found), example_id) >= after:
                break
        ids = list(found)
        at = bisect_left(ids, example_id)
        return ids[max(0, at - before) : at + after]

    def _first(self, example_id: str) -> int:
        """Return the number of the first row group that does not end before an example."""
        return bisect_left(self.row_groups, example_id, key=lambda g: g.greatest)


def example_ranges(files: Iterable[AnyPath]) -> list[str]:
    """Divide examples by their ids, so that what is asked of each alone is asked in memory that does not grow with the run.

    Tables are sorted by example: little of them is read twice.

    Args:
        files: The files of the run's largest table that is sorted by example.

    Returns:
        Conditions in SQL on `example_id`, of which every id meets one: also an id that the files do not have.
    """
    begins = set[str]()
    for file in files:
        footer = pq.read_metadata(parquet_source(file))
        column = footer.schema.names.index("example_id")
        for number in range(_RANGE, footer.num_row_groups, _RANGE):
            ids = footer.row_group(number).column(column).statistics
            if ids is not None and ids.has_min_max:
                begins.add(ids.min)
    conditions = []
    for begin, end in pairwise([None, *sorted(begins), None]):
        ends = [] if begin is None else [f"example_id >= {sql_text(begin)}"]
        ends += [] if end is None else [f"example_id < {sql_text(end)}"]
        conditions.append(" AND ".join(ends) or "true")
    return conditions
