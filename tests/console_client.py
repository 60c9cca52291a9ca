"""A client of the console in the tests' own process: the page's token, and an address that the gate lets in."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from starlette.testclient import TestClient

from warehouse.console.app import create_app
from warehouse.warehouse import Warehouse

TOKEN = "the-token-of-the-tests"
ADDRESS = "http://127.0.0.1:8765"


def console_client(warehouse: Warehouse, **settings: Any) -> TestClient:
    """A client that carries the token; requests through it that raise fail the test."""
    app = create_app(warehouse, TOKEN, **settings)
    return TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"})


def ask(client: TestClient, path: str, **params: Any) -> tuple[list[dict], dict[str, Any]]:
    """The rows that an endpoint answers with, and its notes."""
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == 200, response.text
    table = pa.ipc.open_stream(response.content).read_all()
    return table.to_pylist(), json.loads(table.schema.metadata[b"console"])
