"""The gate: every request passes it before any endpoint sees it, and every answer leaves through it.

In: a request as a browser or anybody else on this machine sends it. Out: a refusal as one line of JSON, or the endpoint's answer, both
with the headers that keep a browser from running, framing or guessing what the answer holds. What it asks, in this order:

    Host            one of ours, so that no name of somebody else's that leads here (DNS rebinding) is served       421
    Origin          none, or the page's own; `null` is a sandboxed frame or a file                                  403
    Sec-Fetch-Site  none or same-origin. Only the page itself may be opened by a link from elsewhere                403
    method, size    GET, HEAD, POST, DELETE; an address of 8 kB and a body of 1 MB at most                405, 414, 413
    Content-Type    a body is JSON, which no form of another site can send without asking first                     415
    token           for all below /api/                                                                             401

There is no CORS: no answer tells a browser that another site may read it. No cookie, either, which all ports of a host share.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""The names of this machine that the page may be opened by."""
MOST_BODY = 1_000_000
"""Bytes of a request's body."""
MOST_ADDRESS = 8_000
"""Bytes of a request's path and query."""

_CSP = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _CSP,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""The headers that every answer has."""
_SINGLE = (b"host", b"origin", b"authorization", b"content-type", b"content-length", b"sec-fetch-site")
"""Headers that decide, and so must not come twice."""

_TOO_LONG = f"The body is longer than {MOST_BODY:,} bytes."

logger = logging.getLogger("warehouse.console")


class RefusedError(Exception):
    """The gate refuses a request."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Gate:
    """The ASGI application around the console's own."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] = (), any_address: bool = False) -> None:
        """Put a gate before an application.

        Args:
            app: The application.
            token: What every request below `/api/` must carry.
            hosts: Names that it answers to beside those of loopback.
            any_address: Whether it also answers to any IP address, which nobody can make lead elsewhere.
        """
        self.app = app
        self._token = token.encode()
        self._hosts = {name.lower() for name in (*LOOPBACK, *hosts)}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        exchange = _Exchange(receive, send)
        try:
            self._check(scope)
            await self.app(scope, exchange.receive, exchange.send)
        except RefusedError as e:
            await exchange.refuse(e)
        except Exception:
            logger.exception("a request failed")
            await exchange.refuse(RefusedError(500, "The console has a defect here. Its terminal says more."))

    def _check(self, scope: Scope) -> None:
        """Check a request before its body is read.

        Raises:
            RefusedError: The gate refuses it.
        """
        headers = _headers(scope)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._is_ours(host, (scope.get("server") or ("", None))[1]):
            raise RefusedError(421, "This server does not answer to that name.")
        if b"origin" in headers and headers[b"origin"].decode("latin-1").lower() != f"{scope['scheme']}://{host}":
            raise RefusedError(403, "Requests of other pages are refused.")
        site = headers.get(b"sec-fetch-site", b"none")
        if site not in (b"none", b"same-origin") and not _opens_the_page(scope, headers):
            raise RefusedError(403, "Requests of other sites are refused.")
        if scope["method"] not in ("GET", "HEAD", "POST", "DELETE"):
            raise RefusedError(405, "There are GET, HEAD, POST and DELETE.")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_ADDRESS:
            raise RefusedError(414, f"The address is longer than {MOST_ADDRESS:,} bytes.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise RefusedError(400, "Content-Length is no number.")
        if int(length[:20]) > MOST_BODY:
            raise RefusedError(413, _TOO_LONG)
        has_body = int(length[:20]) > 0 or b"transfer-encoding" in headers
        if (scope["method"] == "POST" or has_body) and not _is_json(headers.get(b"content-type", b"")):
            raise RefusedError(415, "A body is JSON: send Content-Type: application/json.")
        if _is_api(scope) and not self._has_token(headers.get(b"authorization", b"")):
            raise RefusedError(401, "The token is missing or wrong. Open the address that `traces console` printed.")

    def _is_ours(self, host: str, port: int | None) -> bool:
        """Return whether a Host header is a name of this server, with its port."""
        name, colon, written = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, written = host, "80"
        if port is None or written != str(port):
            return False
        return name in self._hosts or (self._any_address and _is_address(name))

    def _has_token(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(token.strip(), self._token)


class _Exchange:
    """What passes between the browser and an endpoint: a body that ends at the limit, an answer with the gate's headers."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._taken = 0
        self._begun = False

    async def receive(self) -> Message:
        """Receive a part of the body.

        Returns:
            The part, or word that the browser has gone.

        Raises:
            RefusedError: The body, which may not have told its length, is too long.
        """
        message = await self._receive()
        self._taken += len(message.get("body", b""))
        if self._taken > MOST_BODY:
            raise RefusedError(413, _TOO_LONG)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of an answer.

        Raises:
            RefusedError: The endpoint answers to a part of a body that is too long.
        """
        if message["type"] == "http.response.start":
            if self._taken > MOST_BODY:
                raise RefusedError(413, _TOO_LONG)
            self._begun = True
            _add_headers(message)
        await self._send(message)

    async def refuse(self, refused: RefusedError) -> None:
        """Send a refusal; of an answer that has begun, nothing more can be sent."""
        if self._begun:
            return
        body = json.dumps({"error": str(refused), "kind": "gate"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refused.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refused.status == 405:
            headers.append((b"allow", b"GET, HEAD, POST, DELETE"))
        self._taken = 0
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers of a request by name.

    Raises:
        RefusedError: One that decides comes twice.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in _SINGLE:
            raise RefusedError(400, f"The header {name.decode('latin-1')} comes twice.")
        found[name] = value
    return found


def _opens_the_page(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Return whether a browser follows a link to the page: that shows no data, and nobody may frame it."""
    follows = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return follows and scope["method"] == "GET" and scope["path"] == "/"


def _is_api(scope: Scope) -> bool:
    return scope["path"] == "/api" or scope["path"].startswith("/api/")


def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _add_headers(message: MutableMapping[str, Any]) -> None:
    """Add the headers of the gate to the beginning of an answer; an answer's own of the same name give way."""
    own = [(k, v) for k, v in message.get("headers", []) if k.decode("latin-1").lower() not in SECURITY_HEADERS]
    message["headers"] = own + [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
