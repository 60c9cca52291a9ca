"""Where a library for steering is missing, one line says so; the objects themselves are proved in tests/peers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from synthetic import add_run

from capture import exports
from warehouse import Warehouse
from warehouse.errors import UsageError


@pytest.mark.parametrize(
    "library, make", [("repeng", exports.repeng_vector), ("steering_vectors", exports.steering_vector)]
)
def test_a_library_that_is_missing_is_named(library: str, make, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    row = {"trait": "loud", "method": "probe", "component": "residual", "layer": 0, "vector": [1.0, 0.0, 0.0, 0.0]}
    add_run(tmp_path / "runs", "v", "trait-vectors", {"trait_vectors": [row]})
    with Warehouse(tmp_path / "runs") as wh, pytest.raises(UsageError, match=f"needs {library.replace('_', '-')}: pip"):
        make(wh, "v")
