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

from warehouse.catalog.build import ATTACHED, attach, create_views, open_current, read_known, refresh
from warehouse.catalog.source import source
from warehouse.catalog.statements import only_reads
from warehouse.catalog.survey import Survey, file_state
from warehouse.errors import LeftOutWarning, StoreError, UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.storage.run_list import find_run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from warehouse.storage.trace_store import TraceStore

Answer = TypeVar("Answer")

IN_MEMORY = "memory"
"""The name of the database in memory that all connections share: it holds the views of vector tables."""
_MOST_OPEN = 64
"""Runs that `cached_run` keeps open: those that were used last."""
_ABOUT_FILES = re.compile("parquet|json|utf|zstd|file|magic|page", re.IGNORECASE)
"""Words in DuckDB's errors over damaged files, among errors of a type that a wrong query can cause too."""


class Catalog:
    """All runs below a root: `sql` asks, `run` opens one run's tensors; close it with `close` or as a context manager.

    Several threads may ask at once, and each gets what it would get alone: every query has a DuckDB connection of its own.
    """

    def __init__(self, root: str | AnyPath | None = None, *, every_file: bool = False) -> None:
        """Open a warehouse, and make its views where they are missing or out of date.

        Damaged runs are left out of the views, with a LeftOutWarning for each.

        Args:
            root: The folder; `$TRACES_HOME`, else `./runs`, where it is left out.
            every_file: Whether to notice files that have changed beside an unchanged manifest, too.

        Raises:
            UsageError: There is no such folder.
        """
        self.root = paths.find_root(root)
        self._lock = threading.RLock()
        """Held while the views are rebuilt, where a run turns out damaged, and while a run is opened."""
        self._opened: dict[str, tuple[tuple[int, int], TraceStore]] = {}
        if not run_list.exists(self.root):
            raise UsageError(
                f"There is no warehouse at {self.root}. Capture something (traces capture next-token --help), "
                "or name another folder: --warehouse DIR or $TRACES_HOME."
            )
        self._open_views(every_file)

    def _open_views(self, every_file: bool = False) -> None:
        """Open the views, and make them where they are missing or out of date."""
        con, known = open_current(self.root, every_file)
        if con is not None:
            self._use_views(known, con)
        else:
            self._rebuild_views(known, every_file)
        self._opened_at = self.version()

    def version(self) -> str:
        """Return what changes whenever a run or a vector table comes or goes, without reading any of them."""
        if isinstance(self.root, ObjectPath):
            return " ".join(map(str, source(self.root).state()))
        folders = (self.root, paths.catalog_path(self.root), paths.vectors_dir(self.root))
        tables = (paths.vector_info_path(self.root, *names) for names in paths.vector_tables(self.root))
        return " ".join(file_state(path) for path in (*folders, *tables))

    def reopen_if_stale(self) -> bool:
        """Open the views again where runs have come or gone since, so that a process that lives long sees them.

        Queries at work in other threads end on the views that they began with.

        Returns:
            Whether anything had changed.

        Raises:
            UsageError: The folder itself is gone.
        """
        if self.version() == self._opened_at:
            return False
        with self._lock:
            if self.version() == self._opened_at:
                return False  # another thread was faster
            if not run_list.exists(self.root):
                raise UsageError(f"There is no warehouse at {self.root} any more.")
            self._open_views()
        return True

    def _rebuild_views(self, known: Survey, every_file: bool = False) -> None:
        """Rebuild the views and open them."""
        try:
            runs = refresh(self.root, known, every_file)
            con = attach(paths.catalog_path(self.root), self.root)
        except StoreError:
            raise
        except (
            OSError,
            UsageError,
            duckdb.Error,
        ):  # a folder that may only be read, a full disk: the views are made in memory
            con = attach(":memory:", self.root)
            runs = create_views(con, self.root, source(self.root).runs(known, every_file))
        self._use_views(runs, con)

    def _use_views(self, known: Survey, con: duckdb.DuckDBPyConnection) -> None:
        """Answer from these views from now on, and warn of the runs that they leave out."""
        self._base = con
        """Only cursors are made from it: queries of two threads on one connection end each other, or swap their rows."""
        self._threads = threading.local()
        self.damaged = {name: s.fault for name, s in known.items() if s.fault is not None}
        """Runs that are left out of the views, and why."""
        for name, fault in self.damaged.items():
            warnings.warn(f"run '{name}' is left out: {fault}", LeftOutWarning, stacklevel=5)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Open another connection to the views, for the caller alone.

        Runs that have come or gone since are seen, but by a thread that has a `connection` of its own: its variables and
        temporary tables go with the views that they were made beside.

        Returns:
            The connection.
        """
        if self._session is None:
            self.reopen_if_stale()
        return self._cursor()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Open another connection to the views as they are open."""
        con = self._base.cursor()
        con.execute(f"SET search_path = '{ATTACHED},{IN_MEMORY}'")  # a cursor does not know what its connection uses
        return con

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """This thread's own connection to the views, for what outlasts a query.

        That is variables, temporary tables, and relations to be joined. From its first use on, `sql` and `nearest` answer
        through it in this thread, one after the other as DuckDB does: a relation that is read in part ends with the next
        query. Other threads see nothing of it.
        """
        if self._session is None:
            self._threads.session = self.cursor()
        session: duckdb.DuckDBPyConnection = self._threads.session
        return session

    @property
    def _session(self) -> duckdb.DuckDBPyConnection | None:
        return getattr(self._threads, "session", None)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Ask the warehouse in SQL.

        Each answer has a connection of its own, which lives as long as the relation does, in whatever thread it is read. Two
        relations join only where both come from one `connection`. A statement that does more than read, such as SET VARIABLE,
        goes to this thread's `connection`, and so do all queries after it.

        Args:
            query: The SQL; duckdb.Error where DuckDB refuses it.

        Returns:
            The answer as a DuckDB relation: `.df()`, `.arrow()`, `.pl()`, `.fetchall()`; `.query` asks more of it.
        """
        return self.attempt(lambda: self._connection_for(query).sql(query))

    def queries(self) -> pd.DataFrame:
        """List the saved queries.

        Returns:
            A row a query: its name, its title, and the variables that `ask` takes for it.
        """
        import pandas as pd

        from warehouse.catalog.saved_queries import all_queries

        rows = [(name, q.title, q.variables) for name, q in all_queries().items()]
        return pd.DataFrame(rows, columns=["query", "title", "variables"])

    def ask(self, query: str, **variables: str | TraceStore) -> duckdb.DuckDBPyRelation:
        """Ask a saved query.

        Example:
            wh.ask("calibration", run="mine").df()

        Args:
            query: Its name; `queries` lists them.
            **variables: What it is asked about, such as `run`: names of runs, or runs themselves. A run that is left out is the
                newest that fits.

        Returns:
            The answer as a DuckDB relation.

        Raises:
            NotFoundError: There is no such query, variable or run.
            UsageError: The named run lacks what the query needs, or no run has it.
        """
        from warehouse.catalog.saved_queries import find_query, run_query
        from warehouse.storage.trace_store import TraceStore

        saved = find_query(query)
        values = {k: v.meta.run_id if isinstance(v, TraceStore) else str(v) for k, v in variables.items()}
        return self.attempt(lambda: run_query(self.cursor(), saved, values))

    def _connection_for(self, query: str) -> duckdb.DuckDBPyConnection:
        if self._session is not None:
            return self._session
        con = self.cursor()
        return con if only_reads(con, query) else self.connection

    def attempt(self, work: Callable[[], Answer]) -> Answer:
        """Do some work with the views; where a damaged run stops it, leave that run out and do it again.

        Args:
            work: Reads the views.

        Returns:
            What `work` returns.

        Raises:
            duckdb.Error: DuckDB fails, and not over the file of a run.
        """
        base = self._base
        try:
            return work()
        except duckdb.Error as e:
            if not self._leave_out(e, base):
                raise
        return work()

    def _leave_out(self, error: duckdb.Error, base: duckdb.DuckDBPyConnection) -> bool:
        """Leave out the damaged runs that an error over the views of `base` may be about.

        Returns:
            Whether the views leave out more runs than `base` did, or read no compacted files that were altered.
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
            known = read_known(self.root)
            quick = source(self.root).runs({n: s for n, s in known.items() if s.fault is not None})
            runs = quick if _damaged(quick) > self.damaged.keys() else source(self.root).checked_runs(known)
            compacted = f"/{paths.compacted_dir(Path()).name}/" in str(error)
            if not _damaged(runs) > self.damaged.keys() and not compacted:
                return False
            self._rebuild_views(runs, every_file=compacted)
            base.close()
        return True

    def run(self, run_id: str) -> TraceStore:
        """Open one run's tensors and tables; NotFoundError lists the nearest names."""
        from warehouse.storage.trace_store import TraceStore

        return TraceStore(find_run(self.root, run_id))

    def cached_run(self, run_id: str) -> TraceStore:
        """Open one run as `run` does, and keep it open for the next call: until its manifest changes, or many others come."""
        from warehouse.storage.trace_store import TraceStore

        folder = find_run(self.root, run_id)
        try:
            stat = (folder / paths.MANIFEST).stat()
        except FileNotFoundError:
            return self.run(run_id)  # deleted in this moment: it says so
        state = (stat.st_mtime_ns, stat.st_ino)
        with self._lock:
            known = self._opened.pop(run_id, None)
            opened = known if known is not None and known[0] == state else (state, TraceStore(folder))
            self._opened[run_id] = opened  # the last in order is the one that was used last
            while len(self._opened) > _MOST_OPEN:
                del self._opened[next(iter(self._opened))]
            return opened[1]

    def relation(self, rows: pa.Table) -> duckdb.DuckDBPyRelation:
        """Return rows as a relation, like an answer of `sql`."""
        return (self._session or self.cursor()).from_arrow(rows)

    def close(self) -> None:
        """Close the connections to the views."""
        self._base.close()
        self._threads = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _damaged(known: Survey) -> set[str]:
    """Return the names of the damaged runs."""
    return {name for name, s in known.items() if s.fault is not None}
