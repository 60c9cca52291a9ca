"""The server of `traces console`: an address, the application behind it, and an end in order.

In: a warehouse and where to listen. Out: a server that answers until Ctrl-C, and then leaves no process and no open connection behind.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import duckdb
import uvicorn
from fastapi import FastAPI

from warehouse.console.app import create_app
from warehouse.console.blas import one_blas_thread
from warehouse.console.routes import nearest
from warehouse.console.sql.pool import Question
from warehouse.errors import TracesError, UsageError
from warehouse.warehouse import Warehouse

FIRST_PORT = 8765
_PORTS = 50
"""Ports that are tried from the first one on."""
_STOP_SECONDS = 2
"""How long requests at work may take when the server is to stop."""

logger = logging.getLogger("warehouse.console")


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    socket: socket.socket
    host: str
    port: int

    def url(self, token: str) -> str:
        """Return what a browser opens: the token stands in the fragment, which no browser sends to anybody."""
        shown = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/#token={token}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and nobody else can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str = "127.0.0.1", port: int | None = None) -> Address:
    """Take a port.

    Args:
        host: Where to listen.
        port: The port; None for the first that is free from `FIRST_PORT` on.

    Returns:
        The address.

    Raises:
        UsageError: The port is taken, or the host is none of this machine.
    """
    for tried in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + _PORTS):
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, tried, type=socket.SOCK_STREAM)[0]
            taken = socket.socket(family, kind, protocol)
        except OSError as e:
            raise UsageError(f"--host {host}: {e.strerror}.") from None
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(place)
            taken.listen()
        except OSError as e:
            taken.close()
            if e.errno != errno.EADDRINUSE or port is not None:
                hint = " Leave --port out for a free one." if e.errno == errno.EADDRINUSE else ""
                raise UsageError(f"{host}:{tried}: {(e.strerror or str(e)).lower()}.{hint}") from None
        else:
            return Address(taken, host, taken.getsockname()[1])
    raise UsageError(f"No port is free from {FIRST_PORT} to {FIRST_PORT + _PORTS - 1}. Name one: --port N.")


def serve(warehouse: Warehouse, address: Address, model: str | None, started: Callable[[str], None]) -> None:
    """Answer until the process is told to stop.

    Args:
        warehouse: The warehouse.
        address: Where to listen.
        model: The model of live mode, if there is to be one.
        started: Called with the page's address when it can be opened.
    """
    token = secrets.token_urlsafe(32)
    exposed = not is_loopback(address.host)
    hosts = [socket.gethostname(), socket.getfqdn(), address.host] if exposed else []
    app = create_app(warehouse, token, model=model, hosts=hosts, any_address=exposed)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config, app, lambda: started(address.url(token)))
    try:
        server.run(sockets=[address.socket])
    except KeyboardInterrupt:  # which uvicorn raises again when all is done
        pass
    finally:
        app.state.pool.close()


class _Server(uvicorn.Server):
    """uvicorn, which tells when it has started and ends what would hold up its end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._when_started = app, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        for work in (_warm_up, _end_queries):
            threading.Thread(target=work, args=[self._app], daemon=True).start()
        self._when_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second Ctrl-C does not wait for anything."""
        self._app.state.stopping.set()  # open event streams end by themselves
        super().handle_exit(sig, frame)


def _end_queries(app: FastAPI) -> None:
    """End the processes that answer SQL as soon as the server is to stop: nobody waits for their rows."""
    app.state.stopping.wait()
    app.state.pool.close()


def _warm_up(app: FastAPI) -> None:
    """Do in the background what the first requests would wait for."""
    state: Any = app.state
    try:
        state.pool.ask(Question("SELECT 1"), state.warehouse.version())
        one_blas_thread()
        nearest.warm_up(state.warehouse)
    except (TracesError, duckdb.Error, OSError) as e:  # the first request that needs it will tell
        if not state.stopping.is_set():
            logger.warning("%s", e)
