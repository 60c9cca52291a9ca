"""Catalog: all runs below a root as one DuckDB database, opened read-only."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import duckdb

from warehouse.catalog.build import ATTACHED, attach, create_views, current_state, read_state, refresh
from warehouse.catalog.statements import only_reads
from warehouse.catalog.survey import Survey, is_current, survey
from warehouse.errors import LeftOutWarning, UsageError
from warehouse.storage import paths
from warehouse.storage.paths import find_run

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.storage.trace_store import TraceStore

Answer = TypeVar("Answer")

IN_MEMORY = "memory"
"""What the database itself is called, which all connections share: it holds the views of vector tables."""
_ABOUT_FILES = re.compile("parquet|json|utf|zstd|file|magic|page", re.IGNORECASE)
"""What DuckDB's errors over damaged files speak of, of those that a wrong query can cause too."""


class Catalog:
    """All runs below a root. `sql` asks, `run` opens one run's tensors; closes with `close` or as a context manager.

    Several threads may ask at once, and get what each would get alone: every question has a DuckDB connection of its own.
    """

    def __init__(self, root: str | Path | None = None, *, every_file: bool = False) -> None:
        """Opens the warehouse at `root` (default: `$TRACES_HOME`, else `./runs`), making its views where they are missing
        or out of date. Runs that are damaged are left out of them, which a warning tells; with `every_file`, files that have changed
        beside a manifest that has not are noticed too. Raises UsageError where there is no such folder.
        """
        self.root = paths.find_root(root)
        self._lock = threading.RLock()
        """Around what is opened once, and made anew where a run turns out damaged."""
        self._opened: dict[str, tuple[tuple[int, int], TraceStore]] = {}
        if not self.root.is_dir():
            raise UsageError(
                f"There is no warehouse at {self.root}. Capture something (traces capture next-token --help), "
                "or name another folder: --warehouse DIR or $TRACES_HOME."
            )
        then, known = read_state(self.root)
        if then == current_state(self.root) and is_current(self.root, known, every_file):
            self._use_views(known, attach(self.root / paths.CATALOG))
        else:
            self._rebuild_views(known)

    def _rebuild_views(self, known: Survey) -> None:
        """Makes the views anew, and opens them."""
        try:
            found = refresh(self.root, known)
            con = attach(self.root / paths.CATALOG)
        except (OSError, UsageError):  # somebody else's folder, which we may only read: the views are made in memory
            con = attach(":memory:")
            found = create_views(con, self.root, survey(self.root, known))
        self._use_views(found, con)

    def _use_views(self, found: Survey, con: duckdb.DuckDBPyConnection) -> None:
        self._base = con
        """Nothing is asked here: two threads' questions on one connection end each other, and give the other's rows or none."""
        self._threads = threading.local()
        self.damaged = {name: s.fault for name, s in found.items() if s.fault is not None}
        """Runs that are left out of the views, and why."""
        for name, fault in self.damaged.items():
            warnings.warn(f"run '{name}' is left out: {fault}", LeftOutWarning, stacklevel=5)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Opens another connection to the views, which nobody else has."""
        con = self._base.cursor()
        con.execute(f"SET search_path = '{ATTACHED},{IN_MEMORY}'")  # a cursor does not know what its connection uses
        return con

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """This thread's own connection to the views, for what outlasts a question: variables, temporary tables, relations that
        are to be joined. From its first use on, `sql` and `nearest` answer through it in this thread, one after the other as
        DuckDB does: a relation that is read in part ends with the next question. Other threads see nothing of it.
        """
        if self._session is None:
            self._threads.session = self.cursor()
        found: duckdb.DuckDBPyConnection = self._threads.session
        return found

    @property
    def _session(self) -> duckdb.DuckDBPyConnection | None:
        return getattr(self._threads, "session", None)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer as a DuckDB relation: `.df()`, `.arrow()`, `.pl()`, `.fetchall()`. Raises duckdb.Error as DuckDB does.

        Each answer has a connection of its own, which lives as long as the relation does, whoever reads it: `.query` asks more of
        it, and two join only where both were asked for through one `connection`. A statement that is no question, such as SET
        VARIABLE, is for this thread's `connection`, and so are all questions after it.
        """
        return self.attempt(lambda: self._connection_for(query).sql(query))

    def _connection_for(self, query: str) -> duckdb.DuckDBPyConnection:
        if self._session is not None:
            return self._session
        con = self.cursor()
        return con if only_reads(con, query) else self.connection

    def attempt(self, work: Callable[[], Answer]) -> Answer:
        """Returns what `work` does. Where DuckDB fails in it over the file of a run, that run is left out of the views, which is
        told, and `work` is done again. Raises duckdb.Error where no file is at fault.
        """
        base = self._base
        try:
            return work()
        except duckdb.Error as e:
            if not self._leave_out(e, base):
                raise
        return work()

    def _leave_out(self, error: duckdb.Error, base: duckdb.DuckDBPyConnection) -> bool:
        """Looks for the runs that an error over the views of `base` may be about; returns whether there is one more that is left
        out now.
        """
        if isinstance(error, duckdb.InvalidInputException):
            about_files = _ABOUT_FILES.search(str(error)) is not None
        else:
            about_files = not isinstance(
                error, duckdb.ProgrammingError | duckdb.DataError | duckdb.OutOfMemoryException
            )
        if not about_files:
            return False  # a wrong query
        with self._lock:
            if self._base is not base:
                return True  # another thread has left one out meanwhile
            _, known = read_state(self.root)
            quick = survey(self.root, {n: s for n, s in known.items() if s.fault is not None})
            found = quick if _faults(quick) > self.damaged.keys() else survey(self.root, known, thorough=True)
            if not _faults(found) > self.damaged.keys():
                return False
            self._rebuild_views(found)
            base.close()
        return True

    def run(self, run_id: str) -> TraceStore:
        """One run's tensors and tables. Raises NotFoundError with the nearest names."""
        from warehouse.storage.trace_store import TraceStore

        return TraceStore(find_run(self.root, run_id))

    def cached_run(self, run_id: str) -> TraceStore:
        """The same as `run`, kept open from one call to the next for as long as the run is what it was."""
        from warehouse.storage.trace_store import TraceStore

        folder = find_run(self.root, run_id)
        stat = (folder / paths.MANIFEST).stat()
        state = (stat.st_mtime_ns, stat.st_ino)
        with self._lock:
            if run_id not in self._opened or self._opened[run_id][0] != state:
                self._opened[run_id] = (state, TraceStore(folder))
            return self._opened[run_id][1]

    def relation(self, rows: pa.Table) -> duckdb.DuckDBPyRelation:
        """Rows as an answer, which can be asked further as that of `sql`."""
        return (self._session or self.cursor()).from_arrow(rows)

    def close(self) -> None:
        self._base.close()
        self._threads = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _faults(found: Survey) -> set[str]:
    return {name for name, s in found.items() if s.fault is not None}
