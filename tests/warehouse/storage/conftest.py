"""A root in an object store, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Server, s3_server

from warehouse.storage.objects import ObjectPath, any_path


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with an empty bucket."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server() as server:
        yield server


@pytest.fixture
def root(s3: Server) -> ObjectPath:
    """An empty root in it."""
    place = any_path("s3://bucket/runs")
    assert isinstance(place, ObjectPath)
    return place
