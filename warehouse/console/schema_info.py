"""What the page knows of the warehouse before it asks: tables, views and columns with their meanings, and the saved queries.

In: a connection to the views. Out: what `/api/state` answers with, for completion and for the list of questions.
"""

from __future__ import annotations

from typing import Any

import duckdb

from warehouse.catalog.build import ATTACHED
from warehouse.catalog.place import STATE_VIEW
from warehouse.catalog.saved_queries import all_queries
from warehouse.schema.tables import TABLES


def schema(con: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return the tables and then the views, each with its columns, from the comments in the catalog."""
    found = con.execute(
        "SELECT view_name, comment FROM duckdb_views() WHERE database_name = ? AND view_name <> ? ORDER BY view_oid",
        [ATTACHED, STATE_VIEW],
    ).fetchall()
    columns: dict[str, list[dict[str, str]]] = {name: [] for name, _ in found}
    for name, column, kind, comment in con.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE database_name = ? ORDER BY column_index",
        [ATTACHED],
    ).fetchall():
        if name in columns:
            columns[name].append({"name": column, "type": kind, "comment": comment})
    told = [
        {"name": name, "kind": "table" if name in TABLES else "view", "comment": comment, "columns": columns[name]}
        for name, comment in found
    ]
    return sorted(told, key=lambda thing: thing["kind"])


def queries() -> list[dict[str, Any]]:
    """Return the saved queries, with the variables that they take and the tables that a run must have rows in."""
    return [
        {
            "name": q.name,
            "title": q.title,
            "variables": [{"name": v, "kind": q.required_kind(v), "says": q.meaning(v)} for v in q.variables],
            "needs": q.needs,
            "sql": q.text,
        }
        for q in all_queries().values()
    ]
