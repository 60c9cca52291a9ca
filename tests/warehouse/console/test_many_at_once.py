"""Requests that are at work at once are answered as they are alone: DuckDB's connections mix up their rows where threads share one."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from console_client import ADDRESS, TOKEN, console_client
from starlette.testclient import TestClient

from warehouse import Warehouse
from warehouse.console.app import create_app

pytestmark = pytest.mark.slow

AT_ONCE, EACH = 4, 20


def test_four_at_once_get_what_each_gets_alone(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        rows = wh.sql(
            "SELECT run_id, example_id FROM examples WHERE n_tokens > 10 AND idx IN (1, 3) ORDER BY ALL"
        ).fetchall()
        asked = ["/api/runs"]
        for run, example in rows:
            at = f"run={run}&example={example}"
            asked += [
                f"/api/strip?{at}", f"/api/sequences?{at}", f"/api/examples?run={run}&order=loss", f"/api/attn?{at}&layer=1&head=2",
                f"/api/attn/row?{at}&layer=0&pos=9", f"/api/attn/layer?{at}&layer=2&size=8", f"/api/lens?{at}",
            ]  # fmt: skip
        client = console_client(wh)
        alone = {path: _told(client.get(path)) for path in asked}
        assert {told[0] for told in alone.values()} == {200}
        app = create_app(wh, TOKEN)
        lists = [random.Random(i).choices(asked, k=EACH) for i in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = [one for part in pool.map(lambda paths: _ask(app, paths), lists) for one in part]
    assert len(found) == AT_ONCE * EACH and all(told == alone[path] for path, told in found)


def _told(response: Any) -> tuple[int, Any, str | None]:
    """What a response says; of a table its rows, since what lies in Arrow's buffers where a value is NULL is anything."""
    told: Any = response.content
    if response.headers["Content-Type"].startswith("application/vnd.apache.arrow"):
        table = pa.ipc.open_stream(told).read_all()
        told = table.schema.metadata, repr(table.to_pylist())
    return response.status_code, told, response.headers.get("X-Tile")


def _ask(app: Any, paths: list[str]) -> list[tuple[str, tuple[int, Any, str | None]]]:
    client = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"})
    return [(path, _told(client.get(path))) for path in paths]
