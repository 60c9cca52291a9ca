"""The work of one request, which stops when nobody waits for its answer any more.

A page asks again whenever something else is chosen, and drops what it asked before. `run_work` carries an endpoint's function out in
a thread; where the browser has dropped the request, the query that DuckDB is at is interrupted, and loops that call `Work.check` end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread

from warehouse.errors import TracesError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from starlette.requests import Request

    from warehouse.warehouse import Warehouse

Answer = TypeVar("Answer")

_POLL_SECONDS = 0.1
"""How often a request at work is asked whether its browser is still there."""


class StoppedError(TracesError):
    """Nobody waits for the answer any more."""


class Work:
    """What an endpoint's function works with: the warehouse, and queries that stop with the request."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.asked: list[str] = []
        """The SQL that was asked so far, as a user could ask it; the page's log shows it."""
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: duckdb.DuckDBPyConnection | None = None
        self._at_stop: Callable[[], object] | None = None

    def sql(self, query: str, *values: Any) -> pa.Table:
        """Ask the warehouse.

        Args:
            query: The SQL, with a `?` for each value.
            *values: Strings and numbers, which the query as logged has in their places.

        Returns:
            The rows.

        Raises:
            StoppedError: The request has been dropped.
            duckdb.Error: DuckDB refuses the query.
        """
        self.asked.append(_filled_in(query, values))
        return self.warehouse.attempt(lambda: self._rows(query, values))

    def _rows(self, query: str, values: tuple[Any, ...]) -> pa.Table:
        import duckdb

        con = self.warehouse.cursor()
        with self._lock:
            self.check()
            self._running = con
        try:
            return con.execute(query, list(values)).to_arrow_table()
        except duckdb.InterruptException:
            raise StoppedError("The request was dropped.") from None
        finally:
            with self._lock:
                self._running = None
            con.close()

    def check(self) -> None:
        """Raise StoppedError where the request has been dropped; loops over layers or runs call it."""
        if self._stopped.is_set():
            raise StoppedError("The request was dropped.")

    def at_stop(self, function: Callable[[], object]) -> None:
        """Have a function called when the work ends, which stops what is done elsewhere for it."""
        with self._lock:
            self.check()
            self._at_stop = function

    def stop(self) -> None:
        """End the work: the query at work is interrupted, the next one is not begun."""
        with self._lock:
            self._stopped.set()
            if self._at_stop is not None:
                self._at_stop()
            if self._running is not None:
                self._running.interrupt()


async def run_work(request: Request, warehouse: Warehouse, function: Callable[[Work], Answer]) -> Answer:
    """Carry out an endpoint's function in a thread, and stop it where the request is dropped.

    Args:
        request: The request.
        warehouse: The warehouse.
        function: Makes the answer.

    Returns:
        What the function returns.
    """
    work = Work(warehouse)
    thread = asyncio.ensure_future(to_thread.run_sync(function, work))
    try:
        while not (await asyncio.wait({thread}, timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                work.stop()
        return thread.result()
    finally:
        work.stop()


def _filled_in(query: str, values: tuple[Any, ...]) -> str:
    """Return a query with its values in the places of their `?`."""
    from warehouse.schema.quoting import sql_text

    first, *rest = query.split("?")
    texts = [sql_text(v) if isinstance(v, str) else "NULL" if v is None else str(v) for v in values]
    return first + "".join(text + part for text, part in zip(texts, rest, strict=True))
