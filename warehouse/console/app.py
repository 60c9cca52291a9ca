"""The server's application: the gate, the endpoints of each view, and the built page.

`server.py` runs it on loopback; tests run it in a process. It knows the warehouse, and of models nothing: live mode asks a worker
process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from warehouse.console import answers
from warehouse.console.routes import runs
from warehouse.console.work import StoppedError
from warehouse.errors import TracesError

if TYPE_CHECKING:
    from starlette.requests import Request

    from warehouse.warehouse import Warehouse

STATIC = Path(__file__).with_name("static")
"""Where `make console` puts the built page."""


def create_app(warehouse: Warehouse, token: str) -> FastAPI:
    """Make the application.

    Args:
        warehouse: The warehouse that it shows.
        token: What every request for data must carry.

    Returns:
        The application.
    """
    app = FastAPI(title="traces console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.warehouse = warehouse
    for module in (runs,):
        app.include_router(module.router, prefix="/api")
    for kind in (TracesError, duckdb.Error):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_unreadable)
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
