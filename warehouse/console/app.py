"""The server's application: the gate, the endpoints of each view, and the built page.

`server.py` runs it on loopback; tests run it in a process. It knows the warehouse, and of models nothing: live mode asks a worker
process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from warehouse.console import answers
from warehouse.console.gate import Gate
from warehouse.console.page import page
from warehouse.console.routes import (
    attention,
    choices,
    circuits,
    diff,
    effects,
    heads,
    influence,
    nearest,
    patching,
    runs,
    text,
)
from warehouse.console.work import StoppedError
from warehouse.errors import TracesError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request

    from warehouse.warehouse import Warehouse


def create_app(warehouse: Warehouse, token: str, *, hosts: Collection[str] = (), any_address: bool = False) -> FastAPI:
    """Make the application.

    Args:
        warehouse: The warehouse that it shows.
        token: What every request for data must carry.
        hosts: Names that it answers to beside those of loopback.
        any_address: Whether it answers to any IP address.

    Returns:
        The application.
    """
    app = FastAPI(title="traces console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.warehouse = warehouse
    for module in (attention, choices, circuits, diff, effects, heads, influence, nearest, patching, runs, text):
        app.include_router(module.router, prefix="/api")
    for kind in (TracesError, duckdb.Error):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_unreadable)
    app.add_exception_handler(HTTPException, _answer_nothing)
    app.router.default = page
    app.add_middleware(Gate, token=token, hosts=hosts, any_address=any_address)
    return app


def _answer_error(request: Request, exception: Exception) -> JSONResponse:
    """Answer with an error that a user can cause."""
    if isinstance(exception, StoppedError):
        return answers.error("dropped", 499)  # nobody reads it
    return answers.error_of(exception)


def _answer_unreadable(request: Request, exception: Exception) -> JSONResponse:
    """Answer to a request whose parameters are missing or of the wrong type."""
    assert isinstance(exception, RequestValidationError)
    parts = [f"{e['loc'][-1]}: {e['msg']}" for e in exception.errors()]
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
