"""A warehouse in an object store does what a folder does, and holds the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.s3_server import Server, s3_server
from warehouse import TraceStore, Warehouse
from warehouse.storage import paths
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


def test_a_run_in_a_store_is_that_of_a_folder(
    root: ObjectPath, tmp_path: Path, capture_tiny: Callable[..., TraceStore]
) -> None:
    there, here = capture_tiny(root, "one"), capture_tiny(tmp_path / "runs", "one")
    assert str(there.path) == "s3://bucket/runs/run_id=one"
    ids = here.query("SELECT example_id FROM examples ORDER BY ALL").fetchall()
    for (example_id,) in ids[:5]:
        assert np.array_equal(there.resid(example_id), here.resid(example_id))
        assert np.array_equal(there.attn(example_id), here.attn(example_id))
    with Warehouse(root) as a, Warehouse(tmp_path / "runs") as b:
        for table in ("examples", "tokens", "next_token", "token_diagnostics", "tensors"):
            query = f"SELECT COLUMNS(c -> c <> 'created_at') FROM {table} ORDER BY ALL"
            assert a.sql(query).fetchall() == b.sql(query).fetchall(), table
        plain = "SELECT * EXCLUDE (created_at, seconds) FROM runs"
        assert a.sql(plain).fetchall() == b.sql(plain).fetchall()
    assert not paths.staged_runs(root)
