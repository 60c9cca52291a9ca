"""HTTP to a server that is taken for hostile or broken: an answer has a time and a size, and leads to no other address.

httpx's own timeouts are for one read: a server that sends a byte a second is never late by them, nor has a body a limit. So the
SDKs' asynchronous clients run on one thread's event loop, where a deadline ends whatever is under way (looking up the name, the
handshake, headers, the body), and are given an HTTP client that reads a body only so far. Proxies are the environment's, as httpx
takes them from there.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

MAX_BODY_BYTES = 1 << 20
"""Bytes of an answer's body, unpacked. A number with the probabilities beside each of its tokens has some ten thousand."""

R = TypeVar("R")


class UnreadableResponse(Exception):
    """An answer came, and is none that can be read."""


def run_within(seconds: float, work: Coroutine[Any, Any, R]) -> R:
    """Waits for `work` from any thread. Raises TimeoutError after so many seconds, the work being ended then."""

    async def timed() -> R:
        async with asyncio.timeout(seconds):
            return await work

    with _loop_lock:  # two threads that come first would start two
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(timed(), loop).result()


_loop_lock = threading.Lock()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asking judges", daemon=True).start()
    return loop


def http_client(sdk: Any) -> Any:
    """An `http_client` for one of the two SDKs, of the version of httpx that it has. Its `send` raises Unreadable."""

    class Bounded(sdk.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            """The response, its body read and unpacked, whatever its status."""
            response = await super().send(request, **{**options, "stream": True})
            try:
                body = await _read_body(response)
            finally:
                await response.aclose()
            headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _TRANSPORT_HEADERS]
            return type(response)(response.status_code, headers=headers, content=body, request=request)

    # no timeout but the one of `within`; a redirect would take the key and the prompt to whom it names
    return Bounded(timeout=None, follow_redirects=False)


_TRANSPORT_HEADERS = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that tell how a body was sent."""


async def _read_body(response: Any) -> bytes:
    if "," in response.headers.get("content-encoding", ""):  # a bomb in a bomb unpacks for hours into a few bytes
        raise UnreadableResponse("its answer is packed more than once")
    body = bytearray()
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise UnreadableResponse(f"its answer has more than {MAX_BODY_BYTES:,} bytes")
    except importlib.import_module(type(response).__module__.partition(".")[0]).DecodingError:
        raise UnreadableResponse("its answer cannot be unpacked") from None
    return bytes(body)
