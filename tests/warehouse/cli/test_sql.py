"""`traces sql` and `traces shell` where the duckdb shell and its extension are not installed, as after a plain pip install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capture.cli.main import app
from warehouse import Warehouse
from warehouse.errors import UsageError

EXTRA = r"pip install 'trace-warehouse\[shell\]'"


@pytest.fixture(autouse=True)
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    missing = ("duckdb_cli", "duckdb_extension_lance")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))


def test_a_column_named_like_a_vector_table_needs_no_extension(tmp_path: Path) -> None:
    query = "SELECT count(vectors_run_id) AS n FROM trait_best"
    done = CliRunner().invoke(app, ["sql", query, "--format", "tsv", "--warehouse", str(tmp_path)])
    assert done.stdout.split() == ["n", "0"], done.exception


def test_what_needs_the_extra_names_it(tmp_path: Path) -> None:
    with Warehouse(tmp_path) as wh, pytest.raises(UsageError, match=EXTRA):
        wh.load_vectors()
    with pytest.raises(UsageError, match=EXTRA):
        CliRunner().invoke(app, ["shell", "--warehouse", str(tmp_path)], catch_exceptions=False)
