"""Live mode behind the server: one job at a time, a worker that may die or be killed, and nothing of the page's that reaches it unchecked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from warehouse.console.app import create_app
from warehouse.console.live import LiveModel
from warehouse.storage import paths, run_list
from warehouse.warehouse import Warehouse

WORKER = """
import json, os, sys, time
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
tell("loading")
tell("ready", about={"pid": os.getpid()})
for line in sys.stdin:
    tell("started")
    prompt = json.loads(line)["prompt"]
    if prompt == "die":
        print("the last word", file=sys.stderr)
        os._exit(7)
    while prompt == "wait":
        time.sleep(0.01)
    tell("published", run="live-1", what="capture")
    tell("done", shows={"run": "live-1", "examples": []})
"""
"""A worker without a model: it does what its prompt says."""


class Page:
    """A page that is open, as far as live mode goes."""

    def __init__(self, root: Path, model: str | None, worker: bool) -> None:
        (root / "x").parent.mkdir(exist_ok=True)
        self.app = create_app(Warehouse(root), "secret", model=model)
        if worker:
            self.app.state.live = LiveModel("none", root, [sys.executable, "-c", WORKER])
        headers = {"Authorization": "Bearer secret"}
        self.client = TestClient(self.app, base_url="http://127.0.0.1", headers=headers, client=("127.0.0.1", 1))

    def submit(self, **job: Any) -> Any:
        return self.client.post("/api/live/jobs", json=job)

    def state(self) -> dict[str, Any]:
        return dict(self.client.get("/api/live/state").json())

    def wait(self, until: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not until(state := self.state()):
            assert time.monotonic() < end, state
            time.sleep(0.02)
        return state

    def finished(self) -> dict[str, Any]:
        return self.wait(lambda s: s["job"] is not None and s["job"]["status"] != "working", 300)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def start(model: str | None = None, worker: bool = False) -> Page:
        pages.append(Page(tmp_path / "runs", model, worker))
        return pages[-1]

    yield start
    for page in pages:
        if page.app.state.live is not None:
            page.app.state.live.close()
        page.app.state.pool.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_a_model_it_says_what_starts_one(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.state() == {"status": "off", "hint": "traces console --model smollm2"}
    for answer in (page.submit(kind="capture", prompt="x"), page.client.delete("/api/live/jobs")):
        assert (answer.status_code, answer.json()["kind"]) == (200, "empty")
        assert answer.json()["hint"] == "traces console --model smollm2"


def test_one_job_at_a_time(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    assert page.submit(kind="capture", prompt="wait").json() == {"job": 1}
    second = page.submit(kind="capture", prompt="more")
    assert (second.status_code, second.json()["kind"]) == (409, "busy")


def test_a_job_that_is_given_up_ends_with_its_worker(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    page.submit(kind="capture", prompt="wait")
    pid = page.wait(lambda s: s["status"] == "working")["about"]["pid"]
    assert page.client.delete("/api/live/jobs").json() == {"cancelled": True}
    assert not is_alive(pid)
    assert page.state()["job"]["status"] == "cancelled"
    assert page.client.delete("/api/live/jobs").json() == {"cancelled": False}
    assert page.wait(lambda s: s["status"] == "ready")["about"]["pid"] != pid
    page.submit(kind="capture", prompt="go on")
    state = page.finished()
    assert (state["job"]["status"], state["job"]["runs"]) == ("done", [{"run": "live-1", "what": "capture"}])


def test_a_worker_that_dies_is_said_and_the_next_job_has_another(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    page.submit(kind="capture", prompt="die")
    state = page.finished()
    assert (state["status"], state["job"]["status"]) == ("stopped", "failed")
    assert state["job"]["error"] == "The worker ended (exit code 7). the last word"
    page.submit(kind="capture", prompt="go on")
    assert page.finished()["job"]["status"] == "done"


def test_the_worker_ends_with_the_server(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    with page.client:  # from the server's start to its end
        pid = page.wait(lambda s: s["status"] == "ready")["about"]["pid"]
    assert not is_alive(pid)


NO_JOBS: list[dict[str, Any]] = [
    {},
    {"kind": "shell", "prompt": "x"},
    {"kind": "capture"},
    {"kind": "capture", "prompt": ""},
    {"kind": "capture", "prompt": "x" * 20_001},
    {"kind": "capture", "prompt": "x", "turns": [{"role": "user", "content": "x"}]},
    {"kind": "capture", "turns": [{"role": "root", "content": "x"}]},
    {"kind": "capture", "turns": [{"role": "user", "content": "x" * 15_000}] * 2},
    {"kind": "capture", "prompt": "x", "model": "/etc/passwd"},
    {"kind": "capture", "prompt": "x", "run": "mine"},
    {"kind": "capture", "prompt": "x", "warehouse": "/tmp"},
    {"kind": "generate", "prompt": "x", "max_new_tokens": 513},
    {"kind": "generate", "prompt": "x", "max_new_tokens": "5"},
    {"kind": "generate", "prompt": "x", "temperature": -1},
    {"kind": "generate", "prompt": "x", "seed": 1 << 60},
    {"kind": "steer", "prompt": "x", "trait": "loud", "coefficient": 0},
    {"kind": "steer", "prompt": "x", "trait": "loud", "coefficient": 1e6},
    {"kind": "ablate", "run": "r", "example": "../../x", "cuts": [{"layer": 0, "head": 0}]},
    {"kind": "ablate", "run": "r", "example": "0" * 16, "cuts": []},
    {"kind": "ablate", "run": "r", "example": "0" * 16, "cuts": [{"what": "mlp", "layer": 0, "head": 0}]},
    {"kind": "ablate", "run": "r", "example": "0" * 16, "cuts": [{"layer": -1, "head": 0}]},
]  # fmt: skip


def test_what_is_no_job_is_refused_before_a_worker_hears_of_it(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    for job in NO_JOBS:
        answer = page.submit(**job)
        assert (answer.status_code, answer.json()["kind"]) == (422, "usage"), job
    assert page.state()["status"] == "stopped"


def test_what_is_not_there_cannot_be_cut(opened: Callable[..., Page]) -> None:
    page = opened(worker=True)
    for run in ("gone", "../../etc", "a/b"):
        answer = page.submit(kind="ablate", run=run, example="0" * 16, cuts=[{"layer": 0, "head": 0}])
        assert answer.status_code in (404, 422), answer.text
    assert page.state()["status"] == "stopped"


@pytest.mark.slow
def test_a_prompt_from_the_page_is_a_run_and_so_is_what_a_cut_head_does(
    opened: Callable[..., Page], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """With a real worker: capture, ablate, cancel a long response, and go on; nothing half written stays."""
    page, root = opened(model=str(tiny_folder("llama"))), tmp_path / "runs"
    text = "Every night the keeper lit the lamp."
    assert page.submit(kind="capture", prompt=text).status_code == 202
    state = page.finished()
    assert state["job"]["error"] is None
    assert (state["about"]["layers"], state["about"]["heads"], state["about"]["chat"]) == (3, 4, False)
    assert [r["run"] for r in state["job"]["runs"]] == ["live-1", "live-1-lens"]
    (example,) = state["job"]["shows"]["examples"]
    page.submit(kind="ablate", run="live-1", example=example, cuts=[{"layer": 1, "head": 2}])
    assert page.finished()["job"]["shows"] == {"run": "live-2", "examples": [example], "clean": "live-1"}
    page.submit(kind="ablate", run="live-1", example=example, cuts=[{"layer": 9, "head": 2}])
    state = page.finished()
    assert (state["status"], state["job"]["status"]) == ("ready", "failed")
    assert "layers 0 to 2" in state["job"]["error"]
    page.submit(kind="generate", prompt=text, max_new_tokens=100, temperature=1.0)
    page.wait(lambda s: (s["job"]["progress"] or {}).get("done", 0) >= 2)
    page.client.delete("/api/live/jobs")
    page.submit(kind="generate", prompt=text, max_new_tokens=3, temperature=0.0)
    state = page.finished()
    assert (state["job"]["status"], state["job"]["shows"]["run"]) == ("done", "live-3")
    assert run_list.published_runs(root) == ["live-1", "live-1-lens", "live-2", "live-2-lens", "live-3"]
    assert paths.staged_runs(root) == []
    with Warehouse(root) as wh:
        rows = wh.sql("SELECT kind, parents FROM runs WHERE run_id IN ('live-1', 'live-2') ORDER BY run_id").fetchall()
    assert rows == [("next-token", []), ("intervened", ["live-1"])]
