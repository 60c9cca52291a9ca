"""What a table and a column are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, its DuckDB type and what it means."""

    name: str
    sql: str
    comment: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the warehouse: what one row is, which columns tell rows apart, and all columns."""

    name: str
    row: str
    """What one row is: a noun phrase that follows "One row is"."""
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    stored: bool = True
    """Whether the rows are Parquet files in a run's folder. Only `runs` is not: it is read from the manifests."""
    combined: Mapping[str, str] | None = None
    """Of a table whose rows tell of a whole run, so that each of its parts has them: the SQL aggregate that makes one value of the parts'
    values of a column, by column. Rows that are the same otherwise become one. None: no two parts have the same row."""

    @property
    def names(self) -> list[str]:
        """The names of all columns, in order."""
        return [c.name for c in self.columns]

    @property
    def file_columns(self) -> tuple[Column, ...]:
        """The columns that files hold: all but `run_id`, which is the name of the run's folder."""
        return tuple(c for c in self.columns if c.name != "run_id")

    @property
    def sort_key(self) -> tuple[str, ...]:
        """The order of the rows in a run's file: the key without the partition column."""
        return tuple(k for k in self.key if k != "run_id")
