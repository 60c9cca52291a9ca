"""Servers on loopback to judge with: one that speaks OpenAI's and Anthropic's formats, with faults on demand; a proxy that puts
the same faults in front of a real one; and real ones. All of them count what is in flight."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

CHAT_TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
"""A chat template for tiny models."""

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


@dataclass
class Front:
    """What has reached a server, and what comes back. `script`: replies to the first requests, None for the usual one."""

    url: str = ""
    script: list[Callable[[dict], Reply] | None] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    _now: int = 0
    _changes: list[tuple[float, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, by: int) -> None:
        with self._lock:
            self._now += by
            self.most = max(self.most, self._now)
            self._changes.append((time.perf_counter(), self._now))

    def mean(self, skip: float = 0.0) -> float:
        """Mean in flight over time, from the first request to the last reply, this part left out at both ends."""
        start, end = self._changes[0][0], self._changes[-1][0]
        start, end = start + skip * (end - start), end - skip * (end - start)
        total = 0.0
        for (at, n), (until, _) in zip(self._changes, self._changes[1:], strict=False):
            total += n * max(0.0, min(until, end) - max(at, start))
        return total / (end - start)


def completion(answer: str, logprobs: list[dict] | None = None) -> Reply:
    """A chat completion in OpenAI's format."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer},
        "finish_reason": "stop",
        "logprobs": None if logprobs is None else {"content": logprobs, "refusal": None},
    }
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return 200, {"content-type": "application/json"}, json.dumps(body).encode()


def message(answer: str) -> Reply:
    """The same in Anthropic's."""
    body = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": answer}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    return 200, {"content-type": "application/json"}, json.dumps(body).encode()


def error(status: int, text: str, headers: dict[str, str] | None = None, **more: str) -> Callable[[dict], Reply]:
    body = json.dumps({"error": {"message": text, "type": "error", **more}}).encode()
    return lambda _: (status, {"content-type": "application/json", **(headers or {})}, body)


def garbage(body: bytes, kind: str = "application/json") -> Callable[[dict], Reply]:
    return lambda _: (200, {"content-type": kind}, body)


def late(seconds: float, then: Reply) -> Callable[[dict], Reply]:
    def reply(_: dict) -> Reply:
        time.sleep(seconds)
        return then

    return reply


@contextmanager
def serve(usual: Callable[[dict], Reply], *script: Callable[[dict], Reply] | None) -> Iterator[Front]:
    """A server that answers `usual` to what it is sent, once the script has run out."""
    front = Front(script=list(script))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            front.enter(1)
            with front._lock:
                n = len(front.seen)
                front.seen.append(body)
                front.headers.append({k.lower(): v for k, v in self.headers.items()})
            chosen = front.script[n] if n < len(front.script) else None
            status, headers, sent = (chosen or usual)({**body, "path": self.path})
            front.enter(-1)
            if status == 0:  # hang up
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            with contextlib.suppress(OSError):  # who asked may have given up
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(sent))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    front.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Talk:
    """What a server that is no HTTP server has to say, once it has read a request."""

    _socket: socket.socket
    over: threading.Event
    """The test is."""
    sent: int = 0

    def say(self, octets: bytes) -> None:
        """Raises OSError once nobody listens."""
        self._socket.sendall(octets)
        self.sent += len(octets)

    def drip(self, octets: bytes) -> None:
        """A piece now and then, for as long as somebody listens, 30 s at most."""
        for _ in range(300):
            if self.over.wait(0.1):
                return
            self.say(octets)


@contextmanager
def serve_raw(speak: Callable[[Talk], None]) -> Iterator[tuple[str, list[Talk]]]:
    """A server that says what `speak` says to every connection; its address, and what it said to whom."""
    over = threading.Event()
    talks: list[Talk] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            talks.append(Talk(self.request, over))
            with contextlib.suppress(OSError):
                speak(talks[-1])

    class Server(ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", talks
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def forward(url: str) -> Callable[[dict], Reply]:
    """The usual reply of a proxy: what the server at `url` answers."""

    def reply(body: dict) -> Reply:
        sent = {k: v for k, v in body.items() if k != "path"}
        request = urllib.request.Request(
            url + body["path"], json.dumps(sent).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as r:
                return r.status, {"content-type": r.headers["content-type"]}, r.read()
        except urllib.error.HTTPError as e:
            return e.code, {"content-type": e.headers["content-type"] or "text/plain"}, e.read()

    return reply


@contextmanager
def started(command: list[str], port: int, path: str, env: dict[str, str]) -> Iterator[str]:
    """A server in a process of its own, from when it answers GET `path` until it is stopped."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        until = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} does not start")
            try:
                urllib.request.urlopen(url + path, timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
