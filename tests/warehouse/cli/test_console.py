"""`traces console`: what it says where it cannot start, whom it lets in, and how it ends."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import synthetic
from typer.testing import CliRunner

from capture.cli.main import app
from warehouse.console import page, server
from warehouse.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    synthetic.add_run(root, "mine", "next-token", {"examples": [{"example_id": "e"}]})
    return root


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a page, whether this checkout has built one or not; and no browser."""
    (tmp_path / "static").mkdir()
    (tmp_path / "static/index.html").write_text("<!doctype html><title>page</title>")
    monkeypatch.setattr(page, "STATIC", tmp_path / "static")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be served, which then ends at once."""
    calls: list[Any] = []

    def serve(warehouse: Any, address: server.Address, model: str | None, started: Any) -> None:
        calls.append((warehouse.root, address.host, address.port, model))
        address.socket.close()
        started(address.url("the-token"))

    monkeypatch.setattr(server, "serve", serve)
    return calls


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["console", *arguments])
    if isinstance(done.exception, UsageError):
        return str(done.exception)
    assert done.exit_code == 0, done.exception
    return done.stdout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_it_says_where_the_page_is(root: Path, served: list[Any]) -> None:
    port = free_port()
    told = run("-w", str(root), "--port", str(port), "--model", "smollm2", "--no-browser")
    assert told == f"The console of {root} is at http://127.0.0.1:{port}/#token=the-token\nCtrl-C stops it.\n"
    assert served == [(root, "127.0.0.1", port, "smollm2")]


def test_without_a_port_it_takes_one_that_is_free(root: Path, served: list[Any]) -> None:
    with server.listen().socket, server.listen().socket:
        run("-w", str(root), "--no-browser")
    assert server.FIRST_PORT <= served[0][2] < server.FIRST_PORT + 50


def test_a_port_that_is_taken(root: Path, served: list[Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = run("-w", str(root), "--port", str(port))
    assert told == f"127.0.0.1:{port}: address already in use. Leave --port out for a free one." and not served


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com"])
def test_others_are_let_in_by_a_flag_only(host: str, root: Path, served: list[Any]) -> None:
    told = run("-w", str(root), "--host", host)
    assert "--expose" in told and "nothing is encrypted" in told and not served


def test_exposed_it_warns(root: Path, served: list[Any]) -> None:
    port = free_port()
    told = CliRunner().invoke(app, ["console", "-w", str(root), "--host", "0.0.0.0", "--port", str(port), "--expose"])
    assert "nothing is encrypted" in told.stderr and f"http://127.0.0.1:{port}/#token=" in told.stdout
    assert served[0][1] == "0.0.0.0"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2"])
def test_loopback_needs_no_flag(host: str, root: Path, served: list[Any]) -> None:
    run("-w", str(root), "--host", host, "--no-browser")
    assert served[0][1] == host


def test_a_page_that_is_not_built(root: Path, served: list[Any], tmp_path: Path) -> None:
    (tmp_path / "static/index.html").unlink()
    assert "make console" in run("-w", str(root)) and not served


def test_the_extra_that_is_not_installed(root: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert run("-w", str(root)) == "The console needs uvicorn: pip install 'trace-warehouse[console]'" and not served


def test_no_warehouse(tmp_path: Path, served: list[Any]) -> None:
    assert "There is no warehouse" in run("-w", str(tmp_path / "nowhere")) and not served


SERVE = """
import sys
from warehouse import Warehouse
from warehouse.console.server import listen, serve

with Warehouse(sys.argv[1]) as wh:
    serve(wh, listen(port=int(sys.argv[2])), None, lambda url: print(url, flush=True))
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
@pytest.mark.parametrize("at_work", [False, True])
def test_ctrl_c_ends_it_in_order_whatever_is_at_work(at_work: bool, root: Path) -> None:
    """The exit code is 0, nothing is on standard error, no process is left, and an open event stream holds nothing up."""
    port = free_port()
    running = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(root), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stderr is not None
    url = running.stdout.readline().strip()
    address, _, token = url.partition("/#token=")
    assert address == f"http://127.0.0.1:{port}" and len(token) > 40

    def get(path: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(address + path, body, headers), timeout=20)

    assert get("/api/sql", b'{"sql": "SELECT 1"}').status == 200
    children = _children(running.pid)
    assert children
    if at_work:
        events = get("/api/events")
        assert events.readline() == b"event: version\n"
        query = b'{"sql": "SELECT count(*) FROM range(100000000000) AS a, range(100000)", "timeout": 60}'
        asking = subprocess.Popen(
            [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), "
             "{'Authorization': sys.argv[3], 'Content-Type': 'application/json'}))",
             f"{address}/api/sql", query.decode(), f"Bearer {token}"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (0, "done\n", "")
    if at_work:
        asking.wait(timeout=10)
    end = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end
        time.sleep(0.05)
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0


def _children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
