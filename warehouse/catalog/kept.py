"""What the catalog keeps of the runs and of the groups, as rows of tables of its own: a publish writes only what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable

import duckdb

from warehouse.catalog.groups import Group, Groups
from warehouse.catalog.survey import Survey, Surveyed
from warehouse.catalog.views import RUNS_TABLE
from warehouse.schema.quoting import sql_text
from warehouse.schema.tables import TABLES

_SURVEY, _GROUPS = "catalog_survey", "catalog_groups"
_SURVEY_COLUMNS = {
    "run_id": ("BLOB", "The run's name, in the bytes of its folder's, which need not be UTF-8"),
    "manifest": ("VARCHAR", "A signature of run.json"),
    "files": ("VARCHAR", "A signature of all its files"),
    "tables": ("VARCHAR[]", "The files of its tables, below its folder"),
    "bytes": ("BIGINT", "Their sizes together"),
    "current": ("BOOLEAN", "Whether they have every column that this version of the schema names"),
    "fault": ("VARCHAR", "Why it is left out of the views; NULL: it is not"),
}
_GROUP_COLUMNS = {
    "name": ("VARCHAR", "The name of its folder in compacted/"),
    "runs": ("VARCHAR[]", "The names of its runs"),
    "state": ("VARCHAR", "A hash of what was known of their files"),
    "checksums": ("MAP(VARCHAR, VARCHAR)", "Table → the checksum of its file"),
}
_TABLES = {
    RUNS_TABLE: ("a run: what its manifest says", {c.name: (c.sql, c.comment) for c in TABLES["runs"].columns}),
    _SURVEY: ("the folder of a run: what was found in it", _SURVEY_COLUMNS),
    _GROUPS: ("a group of runs whose tables are read from compacted files", _GROUP_COLUMNS),
}

FORM = str([(name, [(c, kind) for c, (kind, _) in columns.items()]) for name, (_, columns) in _TABLES.items()])
"""What tells these tables from those of another version."""


def create_tables(con: duckdb.DuckDBPyConnection) -> None:
    """Create the tables in a database that has none."""
    if con.sql(f"SELECT 1 FROM duckdb_tables() WHERE table_name = '{RUNS_TABLE}'").fetchall():
        return
    for name, (row, columns) in _TABLES.items():
        con.execute(f"CREATE TABLE {name} ({', '.join(f'{c} {kind}' for c, (kind, _) in columns.items())})")
        con.execute(f"COMMENT ON TABLE {name} IS {sql_text(f'One row is {row}')}")
        for c, (_, comment) in columns.items():
            con.execute(f"COMMENT ON COLUMN {name}.{c} IS {sql_text(comment)}")


def read_runs(con: duckdb.DuckDBPyConnection) -> Survey:
    """Return what a connection's catalog knows of the runs; nothing where it is of another version."""
    try:
        rows = con.sql(f"SELECT {', '.join(_SURVEY_COLUMNS)} FROM {_SURVEY} ORDER BY run_id").fetchall()
    except duckdb.Error:
        return {}
    return {os.fsdecode(name): Surveyed(m, f, tuple(tables), *rest) for name, m, f, tables, *rest in rows}


def read_groups(con: duckdb.DuckDBPyConnection) -> Groups:
    """Return the groups whose compacted tables a connection's views read; none where they are of another version."""
    try:
        rows = con.sql(f"SELECT {', '.join(_GROUP_COLUMNS)} FROM {_GROUPS} ORDER BY rowid").fetchall()
    except duckdb.Error:
        return {}
    return {name: Group(tuple(runs), state, checksums) for name, runs, state, checksums in rows}


def write_runs(con: duckdb.DuckDBPyConnection, gone: Iterable[str], new: Survey) -> None:
    """Delete what is known of runs, in `runs` too, and insert what is known of others or of the same now."""
    folders = [os.fsencode(name) for name in gone]
    con.execute(f"DELETE FROM {_SURVEY} WHERE run_id IN (SELECT unnest(?::BLOB[]))", [folders])
    con.execute(f"DELETE FROM {RUNS_TABLE} WHERE encode(run_id) IN (SELECT unnest(?::BLOB[]))", [folders])
    if new:
        columns = [list(map(os.fsencode, new)), *map(list, zip(*new.values(), strict=True))]
        lists = ", ".join(f"unnest(?::{kind}[])" for kind, _ in _SURVEY_COLUMNS.values())
        con.execute(f"INSERT INTO {_SURVEY} SELECT {lists}", columns)


def write_groups(con: duckdb.DuckDBPyConnection, groups: Groups) -> None:
    """Write down the groups, in the place of those that there were."""
    there = read_groups(con)
    gone = [name for name in there if there[name] != groups.get(name)]
    con.execute(f"DELETE FROM {_GROUPS} WHERE name IN (SELECT unnest(?::VARCHAR[]))", [gone])
    for name, group in groups.items():
        if there.get(name) != group:
            sums = group.checksums
            values = [name, list(group.runs), group.state, list(sums), list(sums.values())]
            con.execute(f"INSERT INTO {_GROUPS} VALUES (?, ?, ?, MAP(?, ?))", values)
