"""The SQL statements that make the tables, which the migrations must add up to: a test holds the two equal."""

from __future__ import annotations

from warehouse.schema.quoting import sql_text
from warehouse.schema.tables import SCHEMA_VERSION, TABLES


def ddl() -> str:
    """Write CREATE TABLE and COMMENT statements for every table, as the views show it: what the migrations add up to."""
    out = [f"-- Schema version {SCHEMA_VERSION}: every table as the views show it."]
    for t in TABLES.values():
        columns = [f"    {c.name} {c.sql}{'' if c.nullable else ' NOT NULL'}" for c in t.columns]
        out += ["", f"CREATE TABLE {t.name} (", ",\n".join(columns), ");"]
        out.append(f"COMMENT ON TABLE {t.name} IS {sql_text('One row is ' + t.row)};")
        out += [f"COMMENT ON COLUMN {t.name}.{c.name} IS {sql_text(c.comment)};" for c in t.columns]
    return "\n".join(out) + "\n"
