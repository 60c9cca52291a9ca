"""The texts of the views: one over each table's Parquet files, `runs` over the manifests, and those in `sql/views/`.

Usually a view's files are a pattern, so that a run that was copied in or deleted by hand counts at once, even in an open shell.
Where a run is left out, or the root's path would be a pattern to DuckDB, they are a list. A run's name is that of its folder,
as it is: DuckDB's own reading of `key=value` would take any folder above, decode `%20` and read `null` as NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.catalog import place
from warehouse.catalog.file_sql import RUN_ID, manifest_rows, parquet_rows
from warehouse.schema.quoting import sql_all_columns, sql_no_rows, sql_text
from warehouse.schema.tables import TABLES
from warehouse.schema.types import Column, Table
from warehouse.storage import paths

if TYPE_CHECKING:
    from warehouse.catalog.survey import Survey


_VECTOR_COLUMNS = {
    "name": ("VARCHAR", "sql_name"),
    "model": ("VARCHAR", "model"),
    "side": ("VARCHAR", "side"),
    "site": ("VARCHAR", "site"),
    "layer": ("BIGINT", "layer"),
    "width": ("BIGINT", "width"),
    "heads": ("BIGINT", "heads"),
    "rows": ("BIGINT", "list_sum((runs -> '$.*.rows')::BIGINT[])::BIGINT"),
    "runs": ("VARCHAR[]", "json_keys(runs)"),
    "dtype": ("VARCHAR", "dtype"),
    "centred": ("BOOLEAN", "centred"),
    "metric": ("VARCHAR", "metric"),
    "search": ("VARCHAR", "coalesce(index ->> 'kind', 'exact')"),
    "recall": ("DOUBLE", "coalesce((index ->> 'recall')::DOUBLE, 1)"),
}
"""The columns of `vector_tables`: type, and where a table's info file has it."""


def view_texts(root: Path, known: Survey, infos: Sequence[Path]) -> dict[str, tuple[str, str, tuple[Column, ...]]]:
    """Write the texts of all views.

    Args:
        root: The warehouse.
        known: What is known of its runs.
        infos: The info files of the vector tables that can be read.

    Returns:
        Name → (query, comment, columns), each after those that it reads.
    """
    sound = {name: s for name, s in known.items() if s.fault is None}
    listed = len(sound) < len(known) or "\\" in str(root.resolve())
    views = {}
    for table in TABLES.values():
        runs = [paths.run_dir(root, n) for n, s in sound.items() if not table.stored or table.name in s.tables]
        below = f"{table.name}/*.parquet" if table.stored else paths.MANIFEST
        files = [p for run in runs for p in sorted(run.glob(below))]
        pattern = place.pattern(f"{paths.RUN_PREFIX}*/{below}")
        views[table.name] = (
            _table(table, place.files(root, files) if listed else pattern, bool(files)),
            f"One row is {table.row}",
            table.columns,
        )
    views["vector_tables"] = (_vector_tables(root, infos), "One row is a vector table, which traces index makes", ())
    views["damaged_runs"] = (_damaged(known), "One row is a run that is left out of all views, and why", ())
    for path in sorted((paths.data_dir("sql") / "views").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        views[path.stem] = (text.rstrip().rstrip(";"), text.splitlines()[0].removeprefix("-- "), ())
    return views


def _table(table: Table, files: str, has_rows: bool) -> str:
    if not has_rows:
        return sql_no_rows(table.columns)
    if not table.stored:
        return f"{manifest_rows(files)}WHERE {place.IN_PLACE}\n"
    run_id = RUN_ID.format(prefix=paths.RUN_PREFIX, below="/[^/]*/[^/]*")
    names = ",\n".join(f"    {run_id} AS run_id" if c.name == "run_id" else f"    {c.name}" for c in table.columns)
    return f"SELECT\n{names}\nFROM ({sql_all_columns(table.columns, parquet_rows(files), 'filename')})\nWHERE {place.IN_PLACE}\n"


def _damaged(known: Survey) -> str:
    rows = [f"({sql_text(_escaped(name))}, {sql_text(s.fault)})" for name, s in known.items() if s.fault is not None]
    if not rows:
        return sql_no_rows([Column("run_id", "VARCHAR", ""), Column("reason", "VARCHAR", "")])
    return f"SELECT run_id, reason\nFROM (VALUES {', '.join(rows)}) AS t(run_id, reason)\n"


def _escaped(text: str) -> str:
    """Return a name with a backslash and a number for each byte that is not Unicode."""
    return text.encode(errors="backslashreplace").decode()


def _vector_tables(root: Path, infos: Sequence[Path]) -> str:
    if not infos:
        return sql_no_rows(Column(name, kind, "") for name, (kind, _) in _VECTOR_COLUMNS.items())
    columns = ",\n".join(f"    {source} AS {name}" for name, (_, source) in _VECTOR_COLUMNS.items())
    read = {"runs": "JSON", "index": "JSON"} | {
        source: kind for _, (kind, source) in _VECTOR_COLUMNS.items() if source.isidentifier()
    }
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in read.items())
    return (
        f"SELECT\n{columns}\nFROM read_json({place.files(root, infos)}, columns = {{{spec}}}, "
        f"format = 'unstructured', hive_partitioning = false)\nWHERE {place.IN_PLACE}\n"
    )
