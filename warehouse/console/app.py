"""The server's application: the gate, the endpoints of each view, and the built page.

`server.py` runs it on loopback; tests run it in a process. It knows the warehouse, and of models nothing: live mode asks a worker
process.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import duckdb
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from warehouse.console import answers
from warehouse.console.gate import Gate
from warehouse.console.live import LiveModel
from warehouse.console.page import page
from warehouse.console.routes import (
    ask,
    attention,
    choices,
    circuits,
    diff,
    effects,
    features,
    heads,
    influence,
    live,
    nearest,
    patching,
    runs,
    state,
    text,
)
from warehouse.console.sql.pool import Pool, SqlError
from warehouse.console.work import StoppedError
from warehouse.errors import StoreError, TracesError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from starlette.requests import Request

    from warehouse.warehouse import Warehouse

_SQL_STATUS = {"refused": 422, "sql": 400, "time": 422, "memory": 422, "cancelled": 499, "busy": 503}
"""The status of each kind of `SqlError`."""


def create_app(
    warehouse: Warehouse,
    token: str,
    *,
    model: str | None = None,
    hosts: Collection[str] = (),
    any_address: bool = False,
) -> FastAPI:
    """Make the application.

    Args:
        warehouse: The warehouse that it shows.
        token: What every request for data must carry.
        model: The model that live mode loads; None turns live mode off.
        hosts: Names that it answers to beside those of loopback.
        any_address: Whether it answers to any IP address.

    Returns:
        The application.
    """
    app = FastAPI(title="traces console", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
    app.state.warehouse = warehouse
    app.state.model = model
    app.state.live = None if model is None else LiveModel(model, warehouse.root)
    app.state.stopping = threading.Event()
    app.state.pool = Pool(warehouse.root)
    app.state.questions = {}
    app.state.looked_for_damage = ""
    for module in (
        ask,
        attention,
        choices,
        circuits,
        diff,
        effects,
        features,
        heads,
        influence,
        live,
        nearest,
        patching,
        runs,
        state,
        text,
    ):
        app.include_router(module.router, prefix="/api")
    for kind in (TracesError, StoreError, duckdb.Error):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_unreadable)
    app.add_exception_handler(HTTPException, _answer_nothing)
    app.router.default = page
    app.add_middleware(Gate, token=token, hosts=hosts, any_address=any_address)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model of live mode, and leave no process behind."""
    if app.state.live is not None:
        app.state.live.start()
    yield
    app.state.stopping.set()
    app.state.pool.close()
    if app.state.live is not None:
        app.state.live.close()


def _answer_error(request: Request, exception: Exception) -> JSONResponse:
    """Answer with an error that a user can cause."""
    if isinstance(exception, StoppedError):
        return answers.error("dropped", 499)  # nobody reads it
    if isinstance(exception, SqlError):
        return answers.error(str(exception), _SQL_STATUS[exception.kind], kind=exception.kind, **exception.place)
    return answers.error_of(exception)


def _answer_unreadable(request: Request, exception: Exception) -> JSONResponse:
    """Answer to a request whose parameters are missing or of the wrong type."""
    assert isinstance(exception, RequestValidationError)
    parts = [f"{e['loc'][-1] if isinstance(e['loc'][-1], str) else 'body'}: {e['msg']}" for e in exception.errors()]
    return answers.error("; ".join(parts), 422, kind="usage")


def _answer_nothing(request: Request, exception: Exception) -> JSONResponse:
    """Answer to a request for what is not there, or by a method that it does not have."""
    assert isinstance(exception, HTTPException)
    path = request.url.path
    if exception.status_code == 404:
        return answers.error(f"There is no {path} here.", 404, kind="not_found")
    text = f"{path} has no {request.method}." if exception.status_code == 405 else str(exception.detail)
    response = answers.error(text, exception.status_code, kind="usage")
    response.headers.update(exception.headers or {})
    return response
