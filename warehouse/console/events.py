"""What a page hears of without asking: runs and vector tables that come and go while it is open.

In: the warehouse, looked at once a second, which costs half a millisecond. Out: server-sent events. The first one tells the state when
the page began to listen.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING

from anyio import to_thread

from warehouse.errors import StoreError, TracesError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from warehouse.warehouse import Warehouse

_LOOK_SECONDS = 1.0
_STOP_SECONDS = 0.2
"""How soon an open stream notices that the server is to stop."""
_PING_SECONDS = 15.0
"""How often something is sent where nothing happens, so that a connection that has died is noticed."""


async def changes(request: Request, warehouse: Warehouse, stopping: threading.Event) -> AsyncIterator[str]:
    """Yield events until the page or the server goes.

    Args:
        request: The request of the page that listens.
        warehouse: The warehouse.
        stopping: Set when the server is to stop.

    Yields:
        Events `version` with the version, all runs, and those that have come and gone; comments in between.
    """
    version, known = await to_thread.run_sync(_look, warehouse)
    yield _event(version, known, known)
    looked = pinged = _now()
    while not stopping.is_set() and not await request.is_disconnected():
        await asyncio.sleep(_STOP_SECONDS)
        if _now() - looked >= _LOOK_SECONDS:
            found, runs = await to_thread.run_sync(_look, warehouse, version, known)
            if found != version:
                yield _event(found, runs, known)
            version, known, looked = found, runs, _now()
        if _now() - pinged >= _PING_SECONDS:
            pinged = _now()
            yield ": still here\n\n"


def _look(warehouse: Warehouse, version: str = "", known: list[str] | None = None) -> tuple[str, list[str]]:
    """Return the version of the warehouse and the names of its runs, which are only read where it is another version."""
    try:
        found = warehouse.version()
        if known is not None and found == version:
            return found, known
        try:
            warehouse.reopen_if_stale()
            rows = warehouse.attempt(
                lambda: warehouse.cursor().execute("SELECT run_id FROM runs ORDER BY run_id").fetchall()
            )
        except TracesError:  # the folder is gone
            return found, []
        return warehouse.version(), [run for (run,) in rows]
    except StoreError:  # it is asked again in a second, and a request for anything else says why
        return version, known or []


def _event(version: str, runs: list[str], before: list[str]) -> str:
    """Return an event as its text on the wire; JSON has no line breaks, whatever the runs are called."""
    told = {
        "version": version,
        "runs": runs,
        "came": sorted(set(runs) - set(before)),
        "went": sorted(set(before) - set(runs)),
    }
    return f"event: version\ndata: {json.dumps(told)}\n\n"


def _now() -> float:
    return asyncio.get_running_loop().time()
