"""What every table, view and column of the catalog means: for `docs/tables.md`, and for `traces sql --list` and `--show`.

`python -m warehouse.catalog.reference` prints the document; `make docs` and the tests call it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from warehouse.catalog import place
from warehouse.catalog.build import attach, create_views
from warehouse.schema.tables import SCHEMA_VERSION, TABLES

_BAR = r"\|"
"""A bar in a cell of a table in Markdown."""


class ColumnMeaning(NamedTuple):
    """A column of a table or view."""

    name: str
    sql: str
    """Its DuckDB type."""
    comment: str


class Meaning(NamedTuple):
    """A table or view."""

    comment: str
    """What a row of it is."""
    columns: list[ColumnMeaning]


def meanings() -> dict[str, Meaning]:
    """Return what each table and view means, from the comments in the catalog of an empty warehouse."""
    with tempfile.TemporaryDirectory() as folder, attach(":memory:") as con:
        create_views(con, Path(folder), {})
        found = {
            name: Meaning(place.MADE_OF if name == place.STATE_VIEW else comment, [])
            for name, comment in con.sql(
                "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_oid"
            ).fetchall()
        }
        for view, *column in con.sql(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        ).fetchall():
            if view in found:
                found[view].columns.append(ColumnMeaning(*column))
    return found


def docs() -> str:
    """Write the reference of tables, views and columns that `docs/tables.md` holds."""
    found = meanings()
    tables, views = ([n for n in found if (n in TABLES) == stored] for stored in (True, False))
    out = [
        "# Tables and views",
        "",
        "Made by `make docs` from `warehouse/schema/` and `sql/views/`; a test holds it equal.",
        "",
    ]
    out += [
        f"Schema version {SCHEMA_VERSION}. `run_id` is the run's folder, not a column of its files. DuckDB has the same texts:",
        "`SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'tokens'`.",
        "",
        f"Tables, from the files of runs: {_links(tables)}.",
        "",
        f"Views, over the tables: {_links(views)}.",
        "",
    ]
    for name in tables:
        t = TABLES[name]
        files = f"`run_id=*/{t.name}/*.parquet`" if t.stored else "`run_id=*/run.json`"
        out += [f"## {t.name}", "", f"One row is {t.row}. Key: {', '.join(f'`{k}`' for k in t.key)}. From {files}.", ""]
        out += _rows([(c.name, f"{c.sql}{', may be NULL' if c.nullable else ''}", c.comment) for c in t.columns])
    for name in views:
        out += [f"## {name}", "", f"{found[name].comment}.", "", *_rows(found[name].columns)]
    return "\n".join(out)


def _links(names: list[str]) -> str:
    return ", ".join(f"[{name}](#{name})" for name in names)


def _rows(columns: Iterable[tuple[str, str, str]]) -> list[str]:
    """Write the lines of a table in Markdown."""
    rows = (f"| `{name}` | {sql} | {comment.replace('|', _BAR)} |" for name, sql, comment in columns)
    return ["| column | type | meaning |", "| --- | --- | --- |", *rows, ""]


if __name__ == "__main__":
    import sys

    sys.stdout.write(docs())
