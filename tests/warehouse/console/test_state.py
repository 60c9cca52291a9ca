"""What the page is told without asking for rows: the schema, the saved queries, and runs that come and go."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pyarrow as pa
import pytest
import synthetic
import uvicorn
from console_client import TOKEN, console_client

from warehouse import Warehouse
from warehouse.catalog.reference import meanings
from warehouse.catalog.saved_queries import all_queries
from warehouse.console.app import create_app
from warehouse.schema.tables import TABLES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    synthetic.add_run(
        root, "mine", "next-token", {"examples": [{"example_id": "e"}], "next_token": [{"example_id": "e"}]}
    )
    return root


def test_the_state_names_every_table_view_and_query(root: Path) -> None:
    with Warehouse(root) as wh:
        told = console_client(wh, model="smollm2").get("/api/state").json()
        assert (told["root"], told["version"], told["live"]) == (str(root), wh.version(), {"model": "smollm2"})
        assert console_client(wh).get("/api/state").json()["live"] is None
    known = {k: v for k, v in meanings().items() if k != "catalog_state"}
    assert {t["name"] for t in told["schema"]} == known.keys()
    assert {t["name"] for t in told["schema"] if t["kind"] == "table"} == TABLES.keys()
    for thing in told["schema"]:
        assert thing["comment"] == known[thing["name"]].comment
        assert [(c["name"], c["type"], c["comment"]) for c in thing["columns"]] == known[thing["name"]].columns
    assert [(q["name"], [v["name"] for v in q["variables"]], q["needs"]) for q in told["queries"]] == [
        (q.name, q.variables, q.needs) for q in all_queries().values()
    ]


def test_rows_by_key_can_be_chosen(root: Path) -> None:
    with Warehouse(root) as wh, console_client(wh) as client:
        sql = "SELECT example_id, 1 AS n, run_id FROM examples"
        response = client.post("/api/sql", json={"sql": sql, "id": "one"})
    notes = json.loads(pa.ipc.open_stream(response.content).schema.metadata[b"console"])
    assert notes.pop("ms") >= 0
    assert notes == {"sql": [sql], "total": 1, "cut": None, "keys": ["run_id", "example_id"]}


def test_a_query_is_cancelled_by_its_id(root: Path) -> None:
    with Warehouse(root) as wh, console_client(wh) as client:
        assert client.delete("/api/sql?id=one").json() == {"cancelled": False}
        found = []
        sql = "SELECT count(*) FROM range(100000000000) AS a, range(100000) AS b"
        asking = threading.Thread(target=lambda: found.append(client.post("/api/sql", json={"sql": sql, "id": "one"})))
        asking.start()
        while not client.delete("/api/sql?id=one").json()["cancelled"]:
            time.sleep(0.02)
        asking.join()
        assert found[0].status_code == 499 and found[0].json() == {
            "error": "The query was stopped.",
            "kind": "cancelled",
        }
        assert client.post("/api/sql", json={"sql": "SELECT 1", "id": "one"}).status_code == 200


@pytest.fixture
def port(root: Path) -> Iterator[int]:
    """The port of a real server: a test's client in the same process reads an answer only when it has ended."""
    with socket.socket() as listening, Warehouse(root) as wh:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = create_app(wh, TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        app.state.stopping.set()  # as server.py does, so that open streams end
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()


def _listen(port: int) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/api/events", headers={"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
    return response


def _event(response: HTTPResponse) -> dict[str, object]:
    lines = [response.readline().decode().rstrip("\n") for _ in range(3)]
    assert lines[0] == "event: version" and lines[2] == ""
    found: dict[str, object] = json.loads(lines[1].removeprefix("data: "))
    return found


@pytest.mark.slow
def test_runs_that_come_and_go_are_told_to_every_page(root: Path, port: int) -> None:
    pages = [_listen(port), _listen(port)]
    first = [_event(page) for page in pages]
    assert all((e["runs"], e["came"], e["went"]) == (["mine"], [], []) for e in first)
    made = synthetic.add_run(root.parent / "elsewhere", "new\nline", "next-token", {"examples": [{"example_id": "e"}]})
    made.rename(root / made.name)
    second = [_event(page) for page in pages]
    assert all((e["runs"], e["came"], e["went"]) == (["mine", "new\nline"], ["new\nline"], []) for e in second)
    shutil.rmtree(root / "run_id=mine")
    third = [_event(page) for page in pages]
    assert all((e["runs"], e["came"], e["went"]) == (["new\nline"], [], ["mine"]) for e in third)
    assert len({e["version"] for e in (first[0], second[0], third[0])}) == 3
