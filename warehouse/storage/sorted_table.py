"""SortedTable: a few rows of a table whose files are sorted by its key, such as those of one example, without reading the others.

In go the files of a table of a published run. Parquet notes the least and the greatest value of every column in every row group; those say
which row groups can have the rows, and no other is read. Nothing is kept but the files' footers, and what they say.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
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
        """The first and the last of its example ids; raises CorruptRunError where the file does not say."""
        return self.ends("example_id")

    def ends(self, column: str) -> tuple[Any, Any]:
        """Return the least and the greatest value of a column.

        Raises:
            CorruptRunError: The file does not say.
        """
        number = self.footer.schema.names.index(column)
        values = self.footer.row_group(self.number).column(number).statistics
        if values is None or not values.has_min_max:
            raise CorruptRunError(f"{self.file} does not say between what the {column} of its rows lies.")
        return values.min, values.max

    def read(self, columns: Sequence[str], as_codes: Sequence[str] = ()) -> pa.Table:
        """Return some columns of its rows; of those `as_codes`, each value once and for every row a number, which takes less time."""
        file = pq.ParquetFile(parquet_source(self.file), metadata=self.footer, read_dictionary=list(as_codes))
        return file.read_row_group(self.number, columns=list(columns), use_threads=False).combine_chunks()


class SortedTable:
    """A table of a published run, read by example."""

    def __init__(self, files: Sequence[AnyPath], schema: pa.Schema) -> None:
        """Take the table's files, in order, and the schema of its rows; nothing is read yet."""
        self._files, self._schema = files, schema
        self._known_limits: dict[str, tuple[np.ndarray, np.ndarray]] = {}

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

    def rows_with(self, columns: Sequence[str], equal: Mapping[str, str | int]) -> pa.Table:
        """Return some columns of the rows that have these values in others, in order.

        Args:
            columns: The columns that are returned; strings come as codes into a dictionary.
            equal: Values of key columns, by name: the first of the key, or few groups can be left out.
        """
        numbers = np.arange(len(self.row_groups))
        for name, value in equal.items():
            least, greatest = (ends[numbers] for ends in self._limits(name))
            numbers = numbers[(least <= value) & (value <= greatest)]
        found = []
        for number in numbers:
            # A column that has one value in all of the row group is not read.
            differ = [
                name for name in equal for least, greatest in [self._limits(name)] if least[number] != greatest[number]
            ]
            rows = self.row_groups[number].read(list({*columns, *differ}), self._strings)
            at = np.ones(len(rows), bool)
            for name in differ:
                at &= _is_equal(rows[name].chunk(0), equal[name])
            if at.any():
                found.append(rows.select(list(columns)).take(pa.array(np.flatnonzero(at))))
        return pa.concat_tables(found or [self._empty(columns)])

    def rows_of(self, columns: Sequence[str], example_ids: Collection[str]) -> pa.Table:
        """Return some columns of the rows of several examples, in order.

        Args:
            columns: The columns, `example_id` among them.
            example_ids: The examples.
        """
        schema = pa.schema([self._schema.field(c) for c in columns])
        least, greatest = self._limits("example_id")
        wanted = np.array(sorted(example_ids), object)
        possible = np.searchsorted(wanted, least, "left") < np.searchsorted(wanted, greatest, "right")
        ids = pa.array(wanted, pa.string())

        def read(number: int) -> pa.Table:
            rows = self.row_groups[number].read(columns, self._strings)
            example = rows["example_id"].chunk(0)
            among = pc.is_in(example.dictionary, ids).to_numpy(zero_copy_only=False)
            return rows.take(pa.array(np.flatnonzero(among[example.indices.to_numpy()]))).cast(schema)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # what decodes a row group does so in one thread
            found = list(pool.map(read, np.flatnonzero(possible)))
        return pa.concat_tables(found or [schema.empty_table()])

    @cached_property
    def _strings(self) -> list[str]:
        """The columns that hold strings."""
        return [f.name for f in self._schema if pa.types.is_string(f.type)]

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        code = pa.dictionary(pa.int32(), pa.string())
        return pa.schema(
            [(c, code if c in self._strings else self._schema.field(c).type) for c in columns]
        ).empty_table()

    def _limits(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest value of a column in each row group, as objects.

        Raises:
            CorruptRunError: A file does not say.
        """
        if column not in self._known_limits:
            ends = [group.ends(column) for group in self.row_groups]
            least, greatest = np.empty(len(ends), object), np.empty(len(ends), object)
            least[:], greatest[:] = [a for a, _ in ends], [b for _, b in ends]
            self._known_limits[column] = least, greatest
        return self._known_limits[column]

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


def _is_equal(column: pa.Array, value: str | int) -> np.ndarray:
    """Return where a column without NULLs has a value."""
    coded = isinstance(column, pa.DictionaryArray)
    values = column.indices if coded else column
    same: np.ndarray = values.to_numpy() == (column.dictionary.index(value).as_py() if coded else value)
    return same  # the place of a value that a dictionary does not have is -1


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
