"""What the endpoints answer with: rows as an Arrow stream, matrices as tiles, errors as JSON; each with its ETag.

A page asks the same again after every reload. An answer depends on the request and on the warehouse's `version` alone, so that the
browser keeps it and a `304` tells that it still holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash
from starlette.responses import JSONResponse, Response

from warehouse.console.work import run_work
from warehouse.errors import NotFoundError, StoreError, TracesError, UsageError, on_one_line, without_number
from warehouse.storage.strict_json import finite

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from starlette.requests import Request

    from warehouse.console.work import Work
    from warehouse.warehouse import Warehouse

ARROW = "application/vnd.apache.arrow.stream"
NOTES = b"console"
"""The key of a table's schema metadata that holds notes for the page, as a JSON object."""
TILE_HEADER = "X-Tile"
"""The header that says, as a JSON object, what the bytes of a tile are."""


async def answer(request: Request, function: Callable[[Work], Response]) -> Response:
    """Answer a request with what a function makes, or with 304 where the browser has it already.

    Args:
        request: The request.
        function: Makes the response, in a thread: from `rows`, `tile` or `as_json`.

    Returns:
        The response; an error that a user can cause becomes one line of JSON.
    """
    warehouse: Warehouse = await _current(request)
    tag = etag(request, warehouse)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    response = await run_work(request, warehouse, function)
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    return response


async def _current(request: Request) -> Warehouse:
    """Return the warehouse, with the runs that are there now."""
    from anyio import to_thread

    warehouse: Warehouse = request.app.state.warehouse
    await to_thread.run_sync(warehouse.reopen_if_stale)
    return warehouse


def etag(request: Request, warehouse: Warehouse) -> str:
    """Return what an answer depends on, in short: the request and the runs that are there."""
    from importlib.metadata import version

    known = (version("trace-warehouse"), warehouse.version(), request.url.path, request.url.query)
    return f'"{xxhash.xxh3_64_hexdigest(repr(known).encode())}"'


def rows(table: pa.Table, work: Work | None = None, /, **notes: Any) -> Response:
    """Answer with rows, as one Arrow IPC stream.

    Args:
        table: The rows. Columns that JavaScript has no numbers for (decimals, 128-bit integers) become doubles.
        work: Whose SQL the notes list.
        **notes: What else the page should know, such as `total` and `rule` where rows were left out; JSON.

    Returns:
        The response.
    """
    if work is not None:
        notes["sql"] = work.asked
    table = table.replace_schema_metadata({NOTES: json.dumps(finite(notes)).encode()})
    for place, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.float64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Response(sink.getvalue().to_pybytes(), media_type=ARROW)


def tile(values: np.ndarray, **about: Any) -> Response:
    """Answer with a matrix as its bytes, row by row, little-endian.

    Args:
        values: uint8 or float32, of any number of dimensions.
        **about: What the bytes are, beside `shape` and `dtype`: `scale`, `rows`, `cols`; JSON.

    Returns:
        The response.
    """
    about |= {"shape": values.shape, "dtype": values.dtype.name}
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return Response(little.tobytes(), media_type="application/octet-stream", headers={TILE_HEADER: json.dumps(about)})


def as_json(value: Any) -> Response:
    """Answer with JSON."""
    return JSONResponse(value)


def error(message: str, status: int, **more: Any) -> JSONResponse:
    """Answer with an error, on one line whatever names it holds: `{"error": message, …}`."""
    return JSONResponse({"error": on_one_line(message), **more}, status_code=status)


def empty(message: str, hint: str) -> JSONResponse:
    """Answer that there is nothing to show yet, which is no fault: a browser would note one down for a 404.

    Args:
        message: What there is none of, one line.
        hint: The command that makes it, for the page to offer to copy.

    Returns:
        200 with `{"error": message, "kind": "empty", "hint": hint}`, and the header `X-Empty`.
    """
    response = error(message, 200, kind="empty", hint=hint)
    response.headers["X-Empty"] = "1"
    return response


def error_of(exception: Exception) -> JSONResponse:
    """Answer with an error that a user can cause: a run, an example or a site that is not there, a wrong question, a store that refuses."""
    if isinstance(exception, StoreError):
        return error(without_number(exception), 503, kind="store")
    if isinstance(exception, NotFoundError):
        return error(str(exception), 404, kind="not_found")
    if isinstance(exception, UsageError):
        return error(str(exception), 422, kind="usage")
    if isinstance(exception, TracesError):
        return error(str(exception), 409, kind="damaged")
    return error(" ".join(str(exception).split()), 400, kind="sql")  # DuckDB's
