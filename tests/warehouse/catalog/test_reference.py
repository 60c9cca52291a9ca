"""Every table, view and column says what it means: in the catalog, in docs/tables.md and on the command line."""

from __future__ import annotations

from pathlib import Path

import duckdb
from typer.testing import CliRunner

from capture.cli.main import app
from warehouse.catalog import build, reference, views
from warehouse.storage import paths

TOP = Path(__file__).parents[3]


def test_the_reference_is_what_the_catalog_says() -> None:
    assert (TOP / "docs" / "tables.md").read_text(encoding="utf-8") == reference.docs(), "run: make docs"


def test_every_view_and_every_column_has_a_comment(tmp_path: Path) -> None:
    build.refresh(tmp_path)
    with duckdb.connect(str(tmp_path / paths.CATALOG), read_only=True) as con:
        for kind, of in (("views", "view_name"), ("columns", "concat_ws('.', table_name, column_name)")):
            silent = f"SELECT {of} FROM duckdb_{kind}() WHERE NOT internal AND coalesce(trim(comment), '') = ''"
            assert con.sql(silent).fetchall() == []
            assert con.sql(f"SELECT count(*) > 30 FROM duckdb_{kind}() WHERE NOT internal").fetchone() == (True,)


def test_columns_that_are_passed_on_mean_what_they_did_and_others_what_stands_beside_them() -> None:
    known = {
        "a": views.View("", "", {"x": "A's x", "y": "A's y"}),
        "b": views.View("", "", {"x": "B's x", "z": "B's z"}),
    }
    text = """-- v: a row is a pair.
WITH c AS (
    SELECT x AS y  -- not of the view
    FROM b
)
SELECT
    a.x,
    b.z,
    y AS w,
    CASE
        WHEN z THEN 'one'
    END AS outcome,  -- Which: one, or NULL
    a.x + b.x AS y
FROM b
JOIN a ON a.x = b.x
"""
    view = views.from_file(text, known)
    assert view.comment == "One row is a pair"
    assert view.columns == {"x": "B's x", "z": "B's z", "w": "", "outcome": "Which: one, or NULL", "y": ""}


def test_the_command_line_shows_what_rows_and_columns_are(tmp_path: Path) -> None:
    meaning = reference.meanings()["mcq_accuracy"]
    shown = CliRunner().invoke(app, ["sql", "--show", "mcq_accuracy", "--warehouse", str(tmp_path)])
    listed = CliRunner().invoke(app, ["sql", "--list"])
    assert all(f"-- {c.name} {c.sql}: {c.comment}" in shown.stdout for c in meaning.columns)
    assert f"  mcq_accuracy             {meaning.comment.removeprefix('One row is ')}\n" in listed.stdout
