"""The texts of the views: one over each table's Parquet files, `runs` over the manifests, and those in `sql/views/`.

Usually a view's files are a pattern, so that a run that was copied in or deleted by hand counts at once, even in an open shell.
Where a run is left out, or the root's path would be a pattern to DuckDB, they are a list. A run's name is that of its folder,
as it is: DuckDB's own reading of `key=value` would take any folder above, decode `%20` and read `null` as NULL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from warehouse.catalog import place
from warehouse.catalog.file_sql import RUN_ID, manifest_rows, parquet_rows
from warehouse.schema.columns import RUN
from warehouse.schema.quoting import sql_all_columns, sql_no_rows, sql_text
from warehouse.schema.tables import TABLES
from warehouse.schema.types import Column, Table
from warehouse.storage import paths

if TYPE_CHECKING:
    from warehouse.catalog.survey import Survey


_COLUMN = re.compile(r"    (?:.* AS |(?P<plain>\w+\.|))(?P<name>[a-z]\w*),?(?:  -- (?P<comment>.+))?")
"""A line of the list of columns in `sql/views/`: the last line of a column."""
_SOURCE = re.compile(r"^[^-\n]*\b(?:FROM|JOIN) (\w+)", re.MULTILINE)
"""A table or view that a view reads."""

_VECTOR_COLUMNS = {
    "name": ("VARCHAR", "sql_name", "Its name in SQL: vectors_NAME and nearest_NAME are of it"),
    "model": ("VARCHAR", "model", "The model as it was asked for"),
    "side": ("VARCHAR", "side", "'dec' or 'enc': the stack of the model"),
    "site": ("VARCHAR", "site", "The site that the vectors are of, such as resid.post_mlp"),
    "layer": ("BIGINT", "layer", "Layer, 0-based; NULL: a site without layers"),
    "width": ("BIGINT", "width", "Numbers in a vector"),
    "heads": ("BIGINT", "heads", "Vectors of a token, one a head; 1 for a site without heads"),
    "rows": ("BIGINT", "list_sum((runs -> '$.*.rows')::BIGINT[])::BIGINT", "Vectors"),
    "runs": ("VARCHAR[]", "json_keys(runs)", "The runs that they are of"),
    "dtype": ("VARCHAR", "dtype", "dtype that they are stored in"),
    "centred": ("BOOLEAN", "centred", "Whether the table's median was subtracted from them"),
    "metric": ("VARCHAR", "metric", "The distance that it is searched by: cosine, l2 or dot"),
    "search": (
        "VARCHAR",
        "coalesce(index ->> 'kind', 'exact')",
        "Kind of its index, or exact: every vector is compared",
    ),
    "recall": (
        "DOUBLE",
        "coalesce((index ->> 'recall')::DOUBLE, 1)",
        "Part of the ten nearest vectors that the index finds, measured when it was built",
    ),
}
"""The columns of `vector_tables`: type, where a table's info file has it, and what it means."""


class View(NamedTuple):
    """The text of a view, and what it and its columns mean."""

    query: str
    comment: str
    columns: dict[str, str]
    """What each column means, in order."""


def view_texts(root: Path, known: Survey, infos: Sequence[Path]) -> dict[str, View]:
    """Write the texts of all views.

    Args:
        root: The warehouse.
        known: What is known of its runs.
        infos: The info files of the vector tables that can be read.

    Returns:
        The views by name, each after those that it reads.
    """
    sound = {name: s for name, s in known.items() if s.fault is None}
    listed = len(sound) < len(known) or "\\" in str(root.resolve())
    views = {}
    for table in TABLES.values():
        runs = [paths.run_dir(root, n) for n, s in sound.items() if not table.stored or table.name in s.tables]
        below = f"{table.name}/*.parquet" if table.stored else paths.MANIFEST
        files = [p for run in runs for p in sorted(run.glob(below))]
        pattern = place.pattern(f"{paths.RUN_PREFIX}*/{below}")
        text = _table(table, place.files(root, files) if listed else pattern, bool(files))
        views[table.name] = View(text, f"One row is {table.row}", {c.name: c.comment for c in table.columns})
    views["vector_tables"] = View(
        _vector_tables(root, infos),
        "One row is a vector table, which traces index makes",
        {name: comment for name, (_, _, comment) in _VECTOR_COLUMNS.items()},
    )
    views["damaged_runs"] = View(
        _damaged(known),
        "One row is a run that is left out of all views, and why",
        {"run_id": RUN.comment, "reason": "What is wrong with it"},
    )
    texts = {p.stem: p.read_text(encoding="utf-8") for p in sorted((paths.data_dir("sql") / "views").glob("*.sql"))}

    def read(name: str) -> None:
        for other in _SOURCE.findall(texts[name]):
            if other in texts and other not in views:
                read(other)
        views[name] = from_file(texts[name], views)

    for name in texts:
        if name not in views:
            read(name)
    return views


def from_file(text: str, views: Mapping[str, View]) -> View:
    """Read a file of `sql/views/`.

    What a column means stands beside it. A column that is passed on as it is may do without: it then means what it does in the
    first of the tables and views that the text names, of those that have such a column.

    Args:
        text: The text of the file.
        views: The views that it may read.

    Returns:
        The view.
    """
    sources = [views[name].columns for name in _SOURCE.findall(text) if name in views]
    columns = {}
    for line in text.partition("\nSELECT\n")[2].partition("\nFROM ")[0].splitlines():
        if column := _COLUMN.fullmatch(line):
            name, said = column["name"], column["comment"]
            passed_on = next((s[name] for s in sources if name in s), "") if column["plain"] is not None else ""
            columns[name] = said or passed_on
    return View(
        text.rstrip().rstrip(";"), f"One row is{text.splitlines()[0].partition(': a row is')[2].rstrip('.')}", columns
    )


def _table(table: Table, files: str, has_rows: bool) -> str:
    if not has_rows:
        return sql_no_rows(table.columns)
    if not table.stored:
        return f"{manifest_rows(files)}WHERE {place.IN_PLACE}\n"
    run_id = RUN_ID.format(prefix=paths.RUN_PREFIX, below="/[^/]*/[^/]*")
    names = ",\n".join(f"    {run_id} AS run_id" if c.name == "run_id" else f"    {c.name}" for c in table.columns)
    rows = sql_all_columns(table.columns, parquet_rows(files), "filename")
    return f"SELECT\n{names}\nFROM ({rows})\nWHERE {place.IN_PLACE}\n"


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
        return sql_no_rows(Column(name, kind, "") for name, (kind, _, _) in _VECTOR_COLUMNS.items())
    columns = ",\n".join(f"    {source} AS {name}" for name, (_, source, _) in _VECTOR_COLUMNS.items())
    read = {"runs": "JSON", "index": "JSON"} | {
        source: kind for _, (kind, source, _) in _VECTOR_COLUMNS.items() if source.isidentifier()
    }
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in read.items())
    return (
        f"SELECT\n{columns}\nFROM read_json({place.files(root, infos)}, columns = {{{spec}}}, "
        f"format = 'unstructured', hive_partitioning = false)\nWHERE {place.IN_PLACE}\n"
    )
