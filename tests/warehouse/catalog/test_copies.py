"""A catalog that began with a copy of an empty one, as the tests' do, is the one that is written from nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from catalog_copies import copied_catalogs

from warehouse.catalog import build
from warehouse.storage import paths

HELD = (
    "SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
    "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL",
    "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal ORDER BY ALL",
)


def held(root: Path) -> list[list[tuple]]:
    with build.attach(root / paths.CATALOG) as con:
        return [con.sql(query).fetchall() for query in HELD]


def test_a_copied_catalog_is_the_one_that_is_written_from_nothing(every_table: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(every_table, tmp_path / "runs", ignore=shutil.ignore_patterns(paths.CATALOG)))
    build.refresh(root)
    written = held(root)
    (root / paths.CATALOG).unlink()
    with copied_catalogs(tmp_path / "empty"):
        build.refresh(root)
    assert [len(rows) > 2 for rows in written] == [True] * 3
    assert held(root) == written
