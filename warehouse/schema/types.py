"""What a table and a column of it are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    name: str
    sql: str
    comment: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    stored: bool = True
    """Kept as Parquet in the run's folder; else (`runs`) read from the manifests."""

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    @property
    def file_columns(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.name != "run_id")

    @property
    def sort_key(self) -> tuple[str, ...]:
        """The order of rows in a run's file: the key without the partition column."""
        return tuple(k for k in self.key if k != "run_id")
