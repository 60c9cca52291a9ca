"""The schema as text: the SQL statements that make the tables, and the reference in `docs/tables.md`.

`python -m warehouse.schema.reference docs` (or `ddl`) prints it; `make docs` and the tests call it.
"""

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


def docs() -> str:
    """Write the reference of tables and columns that `docs/tables.md` holds."""
    out = ["# Tables", "", "Made by `make docs` from `warehouse/schema/`; a test holds it equal.", ""]
    out += [f"Schema version {SCHEMA_VERSION}. `run_id` is the run's folder, not a column of its files.", ""]
    for t in TABLES.values():
        files = f"`run_id=*/{t.name}/*.parquet`" if t.stored else "`run_id=*/run.json`"
        out += [f"## {t.name}", "", f"One row is {t.row}. Key: {', '.join(f'`{k}`' for k in t.key)}. From {files}.", ""]
        out += ["| column | type | meaning |", "| --- | --- | --- |"]
        out += [f"| `{c.name}` | {c.sql}{', may be NULL' if c.nullable else ''} | {c.comment} |" for c in t.columns]
        out.append("")
    return "\n".join(out)


if __name__ == "__main__":
    import sys

    sys.stdout.write({"ddl": ddl, "docs": docs}[sys.argv[1]]())
