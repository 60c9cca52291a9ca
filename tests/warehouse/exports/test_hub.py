"""A folder is pushed by the hub's own client: what a server on loopback is sent is the folder, and a refusal is one line."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from warehouse.errors import TracesError, UsageError
from warehouse.exports.hub import push

constants = pytest.importorskip("huggingface_hub.constants")


class Hub(ThreadingHTTPServer):
    """As much of the hub as a small upload needs; `status` is what it answers everything with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.status = 200


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(self.path)
        self.server.tokens.add(self.headers.get("Authorization"))
        home = f"http://127.0.0.1:{self.server.server_port}"
        if self.path.endswith("/repos/create"):
            self.reply({"url": f"{home}/datasets/me/x", "error": "You may not."})
        elif "/preupload/" in self.path:
            files = [f | {"uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            self.reply({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply({"success": True, "commitOid": "c0", "commitUrl": f"{home}/datasets/me/x/commit/c0"})
        else:
            self.reply({})

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.reply({"id": "me/x", "sha": "c0", "siblings": [], "xetEnabled": False})

    def reply(self, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", "hf_loopback")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "examples").mkdir(parents=True)
    (tmp_path / "out" / "README.md").write_text("# x\n", encoding="utf-8")
    (tmp_path / "out" / "examples" / "0.parquet").write_bytes(b"PAR1")
    return tmp_path / "out"


def test_the_whole_folder_is_pushed(hub: Hub, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    push(folder, "me/x")
    assert hub.files == {"README.md": b"# x\n", "examples/0.parquet": b"PAR1"}
    assert hub.tokens == {"Bearer hf_loopback"}
    assert "hf_loopback" not in "".join(capfd.readouterr())


def test_a_refusal_is_one_line_and_the_folder_stays(hub: Hub, folder: Path) -> None:
    hub.status = 401
    with pytest.raises(TracesError, match="is there, but was not pushed to me/x") as e:
        push(folder, "me/x")
    assert "\n" not in str(e.value) and "hf_loopback" not in str(e.value)
    assert hub.files == {} and (folder / "README.md").is_file()


def test_without_a_network_it_is_said(folder: Path) -> None:
    with pytest.raises(TracesError, match="was not pushed to me/x"):
        push(folder, "me/x")


@pytest.mark.parametrize("name", ["x", "a/b/c", "me/..", "me/x y"])
def test_a_name_is_checked_first(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--push"):
        push(folder, name)
