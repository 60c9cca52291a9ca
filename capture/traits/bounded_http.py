"""HTTP to a server that may be hostile or broken: an answer is limited in time and size, and redirects are not followed.

httpx's own timeouts cover one read at a time: a server that sends a byte a second never exceeds them, and a body has no limit. The
SDKs' asynchronous clients therefore run on an event loop in one thread, where a deadline ends whatever is under way (name lookup,
handshake, headers, body), and they get an HTTP client that stops reading a body at `MAX_BODY_BYTES`. Proxies come from the
environment, as usual with httpx.

`judge_clients` is the only caller. Nothing here knows about judges or prompts.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

MAX_BODY_BYTES = 1 << 20
"""Limit of an answer's body in bytes, after decompression. A number with the alternatives to each of its tokens has about 10,000."""

R = TypeVar("R")


class UnreadableResponse(Exception):
    """An answer arrived that cannot be read."""


def run_within(seconds: float, work: Coroutine[Any, Any, R]) -> R:
    """Wait for `work` from any thread.

    Args:
        seconds: The deadline.
        work: The coroutine, which runs on the shared event loop.

    Returns:
        What `work` returns.

    Raises:
        TimeoutError: The deadline passed; `work` has been cancelled.
    """

    async def timed() -> R:
        async with asyncio.timeout(seconds):
            return await work

    with _loop_lock:  # or the first two threads would start a loop each
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(timed(), loop).result()


_loop_lock = threading.Lock()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asking judges", daemon=True).start()
    return loop


def http_client(sdk: Any) -> Any:
    """Return an `http_client` for one of the two SDKs, built on its own httpx; its `send` raises UnreadableResponse."""

    class Bounded(sdk.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            """Return the response with its body read and decompressed, whatever its status."""
            response = await super().send(request, **{**options, "stream": True})
            try:
                body = await _read_body(response)
            finally:
                await response.aclose()
            headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _TRANSPORT_HEADERS]
            return type(response)(response.status_code, headers=headers, content=body, request=request)

    # no timeout but that of `run_within`; a redirect would hand key and prompt to whatever server it names
    return Bounded(timeout=None, follow_redirects=False)


_TRANSPORT_HEADERS = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that describe how a body was sent, which no longer hold once it is unpacked."""


async def _read_body(response: Any) -> bytes:
    if "," in response.headers.get("content-encoding", ""):  # a bomb in a bomb takes hours to unpack
        raise UnreadableResponse("its answer is compressed more than once")
    body = bytearray()
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise UnreadableResponse(f"its answer has more than {MAX_BODY_BYTES:,} bytes")
    except importlib.import_module(type(response).__module__.partition(".")[0]).DecodingError:
        raise UnreadableResponse("its answer cannot be decompressed") from None
    return bytes(body)
