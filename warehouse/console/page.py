"""The built page: what a browser gets for all addresses that are not below `/api/`.

In: the path of a request. Out: a file of `static/`, where `make console` puts them. A path is looked up among the names of the files
that are there, and never made into a path on the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

STATIC = Path(__file__).with_name("static")
"""Where `make console` puts the built page."""
NOT_BUILT = (
    "The page is not built: `make console` builds it, for which Node 20 or newer is needed. Installed packages have it."
)
_INDEX = "index.html"
_HASHED = "assets/"
"""Below this are files whose names change with what they hold: a browser never asks for one again."""


def is_built() -> bool:
    """Return whether there is a page to show."""
    return (STATIC / _INDEX).is_file()


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a file of the page.

    Raises:
        HTTPException: There is no such file, or it is asked for by something else than GET or HEAD.
    """
    request = Request(scope)
    name = request.url.path.removeprefix("/") or _INDEX
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
    if name == _INDEX and not files:
        await PlainTextResponse(NOT_BUILT, status_code=503)(scope, receive, send)
        return
    if name not in files:
        raise HTTPException(404)
    if request.method not in ("GET", "HEAD"):
        raise HTTPException(405, headers={"Allow": "GET, HEAD"})
    kept = "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-cache"
    await FileResponse(files[name], headers={"Cache-Control": kept})(scope, receive, send)
