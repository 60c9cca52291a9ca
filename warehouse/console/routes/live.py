"""`/api/live/…`: jobs for a model that is loaded, and how they go. There is none unless the console was started with `--model`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse

from warehouse.console.answers import answer, as_json, empty, error, rows
from warehouse.console.live import BusyError, LiveModel
from warehouse.console.live_jobs import JOB, AblateJob
from warehouse.errors import NotFoundError

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator

    from warehouse.warehouse import Warehouse

router = APIRouter(prefix="/live")

_HINT = "traces console --model smollm2"
"""The command that turns live mode on."""
_LOOK_SECONDS = 0.05
"""How soon a page hears of a token that was drawn."""
_PING_SECONDS = 15.0


@router.get("/state")
async def state(request: Request) -> Response:
    """Answer with what the model is at, as JSON; `status` is `off` where there is none."""
    live = _model(request)
    return as_json({"status": "off", "hint": _HINT} if live is None else live.state())


@router.get("/events")
async def events(request: Request) -> Response:
    """Answer with server-sent events: the state, whenever it changes."""
    live = _model(request)
    if live is None:
        return _off()
    stream = _changes(request, live, request.app.state.stopping)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/traits")
async def traits(request: Request) -> Response:
    """Answer with the traits that a model can be steered by, and the layers that have a vector: those that steering takes."""
    sql = (
        "SELECT trait, list(DISTINCT layer ORDER BY layer) AS layers FROM trait_vectors "
        "WHERE method = 'mean_diff' AND component = 'residual' AND layer IS NOT NULL GROUP BY trait ORDER BY trait"
    )
    return await answer(request, lambda work: rows(work.sql(sql), work))


@router.post("/jobs")
async def submit(request: Request) -> Response:
    """Begin a job: 202 with its number, 409 while another one is at work."""
    live = _model(request)
    if live is None:
        return _off()
    try:
        job = JOB.validate_json(await request.body())
    except ValidationError as e:
        return error("; ".join(_said(fault["loc"], fault["msg"]) for fault in e.errors()), 422, kind="usage")
    if isinstance(job, AblateJob):
        await to_thread.run_sync(_check_example, request.app.state.warehouse, job)
    try:
        number = await to_thread.run_sync(live.submit, job)
    except BusyError as e:
        return error(str(e), 409, kind="busy")
    return JSONResponse({"job": number}, 202)


@router.delete("/jobs")
async def cancel(request: Request) -> Response:
    """Give up the job at work."""
    live = _model(request)
    return _off() if live is None else as_json({"cancelled": await to_thread.run_sync(live.cancel)})


def _model(request: Request) -> LiveModel | None:
    live: LiveModel | None = request.app.state.live
    return live


def _off() -> JSONResponse:
    return empty("No model is loaded.", _HINT)


def _said(place: tuple[int | str, ...], message: str) -> str:
    """Return a fault of a job in words; the first part of its place is the kind of job."""
    words = ".".join(str(x) for x in place[1:])
    return f"{words}: {message}" if words else message


def _check_example(warehouse: Warehouse, job: AblateJob) -> None:
    """Check that an example is there; raises NotFoundError."""
    warehouse.reopen_if_stale()
    if not warehouse.cached_run(job.run).query("FROM examples WHERE example_id = ?", [job.example]).fetchone():
        raise NotFoundError("example", job.example, [], f"(of run '{job.run}')")


async def _changes(request: Request, live: LiveModel, stopping: threading.Event) -> AsyncIterator[str]:
    """Yield the state whenever it has changed, until the page or the server goes.

    Args:
        request: The request of the page that listens.
        live: The model.
        stopping: Set when the server is to stop.

    Yields:
        Events `state`; comments in between.
    """
    clock, told = asyncio.get_running_loop().time, -1
    spoke = clock()
    while not stopping.is_set() and not await request.is_disconnected():
        if live.version != told:
            now = live.state()
            told, spoke = now["version"], clock()
            yield f"event: state\ndata: {json.dumps(now)}\n\n"
        elif clock() - spoke >= _PING_SECONDS:
            spoke = clock()
            yield ": still here\n\n"
        await asyncio.sleep(_LOOK_SECONDS)
