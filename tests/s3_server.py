"""An S3 server on loopback for tests: moto's, with faults in front of it that a test asks for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Environment = dict[str, Any]
Fault = Callable[[Environment], str | None]
"""Told of a request; returns what is to go wrong with it: `error` (a 503), `denied` (a 403), `slow`, `cut` (the request is not answered), `lost` (it is
done and not answered), or None."""


class Server:
    """A running server, and what it was asked."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self.fault: Fault = lambda _: None
        self.requests: list[tuple[str, str, str]] = []
        """Method, path, and the range that was asked for."""

    def __call__(self, environment: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, or fail to."""
        path = environment["PATH_INFO"] + (f"?{q}" if (q := environment.get("QUERY_STRING")) else "")
        self.requests.append((environment["REQUEST_METHOD"], path, environment.get("HTTP_RANGE", "")))
        fault = self.fault(environment)
        if fault == "error":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        if fault == "denied":
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code></Error>"]
        if fault == "slow":
            time.sleep(1)
        if fault == "cut":
            raise ConnectionAbortedError
        answer = list(self._app(environment, start_response))
        if fault == "lost":
            raise ConnectionAbortedError
        return answer

    @contextmanager
    def faults(self, fault: Fault) -> Iterator[None]:
        """Have requests go wrong for a while."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = lambda _: None

    @contextmanager
    def watched(self) -> Iterator[list[tuple[str, str, str]]]:
        """Give the requests of a while, once it is over."""
        first, seen = len(self.requests), list[tuple[str, str, str]]()
        yield seen
        seen += self.requests[first:]


@contextmanager
def s3_server() -> Iterator[Server]:
    """Run a server with an empty bucket, `bucket`, that the environment leads to; it ends with the block."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'trace-warehouse[s3]' moto[server]")
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

        def connection_dropped(self, *_: Any) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    server = Server(DomainDispatcherApplication(create_backend_app))
    listening = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    variables = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.server_port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        from warehouse.storage import object_log, objects

        objects._store.cache_clear()
        object_log._read.clear()
        reset = urllib.request.Request(f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # its memory is the process's
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        server.requests.clear()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
            listening.server_close()
            objects._store.cache_clear()
            object_log._read.clear()
