"""Take out of vector tables the rows of runs that are gone.

Runs are deleted by `traces runs rm`, by hand, or replaced by another of the same name; the tables are indexes over them and follow.
`remove_run_rows` follows one deletion; `reconcile` compares all tables with the runs that exist. A damaged table does not keep the
others from being reconciled: it is reported to `note`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from warehouse.errors import TracesError
from warehouse.schema.quoting import sql_texts
from warehouse.storage.objects import AnyPath
from warehouse.vectors import trait_table
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import all_tables

Note = Callable[[str], None]
"""Takes a line that says what is being done, or what is wrong."""


def reconcile(root: AnyPath, note: Note = lambda _: None) -> list[str]:
    """Delete the rows of runs that were deleted or replaced by hand, and rows that no table lists.

    Args:
        root: The warehouse.
        note: Called with what is waited for, and with tables that cannot be read.

    Returns:
        Names of the runs whose rows were deleted, sorted, as far as they are known.
    """
    gone: set[str] = set()
    for table in all_tables(root):
        with _report_damage(note):
            if table.stale_runs() or table.has_unlisted_rows:
                with table.locked(note):
                    gone |= set(reconcile_table(table))
    with _report_damage(note):
        gone |= set(trait_table.reconcile(root))
    return sorted(gone)


def reconcile_table(table: VectorTable) -> list[str]:
    """Drop stale and unlisted rows of a table that the caller has locked, and return the names of their runs where known."""
    stale = table.stale_runs()
    if stale or table.has_unlisted_rows:
        drop_runs(table, stale)
    return stale


def remove_run_rows(root: AnyPath, run_id: str, note: Note = lambda _: None) -> None:
    """Delete a run's rows from all vector tables, and the tables that are then empty.

    Args:
        root: The warehouse.
        run_id: The run.
        note: Called with what is waited for, and with tables that cannot be read.
    """
    for table in all_tables(root):
        with _report_damage(note):
            if run_id in table.info.runs or table.has_unlisted_rows:
                with table.locked(note):
                    drop_runs(table, [run_id])
    with _report_damage(note):
        trait_table.reconcile(root)


def drop_runs(table: VectorTable, runs: Iterable[str]) -> None:
    """Delete the rows of some runs, and unlisted rows, from a table that the caller has locked; `ann_index.optimize` frees their space."""
    for run in runs:
        table.info.runs.pop(run, None)
    if not table.info.runs:
        table.remove()
        return
    table.lance.delete(f"run_id NOT IN {sql_texts(table.info.runs)}")
    table.write_info()


@contextmanager
def _report_damage(note: Note) -> Iterator[None]:
    try:
        yield
    except TracesError as e:
        note(f"warning: {e}")
