"""The texts of the views: one over each table's Parquet files, `runs` over what the manifests say, and those in `sql/views/`.

A view's files are a list, in a macro of its own, so that a query looks for none and opens those of the runs that it asks about. A
pattern would be looked up in every run's folder at every query. A run that was copied in or deleted by hand counts after a refresh,
which a Warehouse makes by itself; the bare duckdb shell needs `traces refresh`.

A run's name is that of its folder, as it is: DuckDB's own reading of `key=value` takes any folder above, decodes `%20` and reads
`null` as NULL, and is used where none of these can be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from warehouse.catalog import place
from warehouse.catalog.groups import runs_in
from warehouse.schema.columns import RUN
from warehouse.schema.quoting import sql_all_columns, sql_no_rows, sql_text
from warehouse.schema.tables import TABLES
from warehouse.schema.types import Column, Table
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath, below

if TYPE_CHECKING:
    from warehouse.catalog.groups import Groups
    from warehouse.catalog.survey import Survey


_COLUMN = re.compile(r"    (?:.* AS |(?P<plain>\w+\.|))(?P<name>[a-z]\w*),?(?:  -- (?P<comment>.+))?")
"""A line of the list of columns in `sql/views/`: the last line of a column."""
_SOURCE = re.compile(r"^[^-\n]*\b(?:FROM|JOIN) (\w+)", re.MULTILINE)
"""A table or view that a view reads."""

RUNS_TABLE = "catalog_runs"
"""The table that holds the rows of the view `runs`."""
_FILES, _OLDER_FILES, _COMPACTED_FILES = (
    "files_of_{table}()",
    "older_files_of_{table}()",
    "compacted_files_of_{table}()",
)
_RUN_ID = f"regexp_extract(filename, '/{paths.RUN_PREFIX}([^/]*)/[^/]*/[^/]*$', 1)"
"""SQL of a run's name from the path of a file of one of its tables."""

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


def view_texts(root: AnyPath, known: Survey, groups: Groups, infos: Sequence[AnyPath]) -> dict[str, View]:
    """Write the texts of all views.

    Args:
        root: The warehouse.
        known: What is known of its runs.
        groups: The groups of runs whose tables are compacted.
        infos: The info files of the vector tables that can be read.

    Returns:
        The views by name, each after those that it reads.
    """
    views = {}
    lists = file_lists(known, groups)
    values = place.has_values(root) or not all(map(paths.is_plain_name, known))
    for table in TABLES.values():
        text = _table(table, lists.keys(), values) if table.stored else _runs(table)
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
        for other in _sources(texts[name]):
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
    sources = [views[name].columns for name in _sources(text) if name in views]
    columns = {}
    for name, said, plain in _listed(text):
        passed_on = next((s[name] for s in sources if name in s), "") if plain else ""
        columns[name] = said or passed_on
    return View(
        text.rstrip().rstrip(";"), f"One row is{text.splitlines()[0].partition(': a row is')[2].rstrip('.')}", columns
    )


@cache
def _sources(text: str) -> list[str]:
    """Return the names of what the text of a file of `sql/views/` reads."""
    return _SOURCE.findall(text)


@cache
def _listed(text: str) -> list[tuple[str, str, bool]]:
    """Return the columns that such a text lists: name, what is said of it, and whether it is passed on as it is."""
    lines = text.partition("\nSELECT\n")[2].partition("\nFROM ")[0].splitlines()
    found = filter(None, map(_COLUMN.fullmatch, lines))
    return [(column["name"], column["comment"], column["plain"] is not None) for column in found]


def file_lists(known: Survey, groups: Groups) -> dict[str, list[str]]:
    """List the files that the views of tables read.

    Args:
        known: What is known of the runs.
        groups: The groups of them whose tables are compacted.

    Returns:
        Head of a macro → the paths below the root that it stands for. `files_of_tokens()` are files with all columns that the
        table has now, `older_files_of_tokens()` those of older runs, `compacted_files_of_tokens()` those with the rows of many
        runs; only lists that are not empty.
    """
    lists: dict[str, list[str]] = {}
    compacted = runs_in(groups)
    for run_id, run in known.items():
        for file in run.tables if run_id not in compacted else ():
            head = (_FILES if run.current else _OLDER_FILES).format(table=file.partition("/")[0])
            lists.setdefault(head, []).append(f"{paths.RUN_PREFIX}{run_id}/{file}")
    for name, group in groups.items():
        for table in group.checksums:
            lists.setdefault(_COMPACTED_FILES.format(table=table), []).append(paths.compacted_file(name, table))
    return lists


def _runs(table: Table) -> str:
    return f"SELECT\n{_columns(table, 'run_id')}\nFROM {RUNS_TABLE}\nWHERE {place.IN_PLACE}\n"


def _table(table: Table, lists: Collection[str], values: bool) -> str:
    """Write the text of a table's view.

    Args:
        table: The table.
        lists: The lists of files that there are.
        values: Whether the name of a folder on the way could be read as another value than it is, or as another column.

    Returns:
        The text.
    """
    parts = []
    if (files := _COMPACTED_FILES.format(table=table.name)) in lists:
        parts.append(f"SELECT\n{_columns(table, 'run_id')}\nFROM read_parquet({files}, hive_partitioning = false)\n")
    # DuckDB leaves out the files of other runs before it opens any: three times as fast by its own reading of run_id=….
    if (files := _FILES.format(table=table.name)) in lists and not values:
        options = f"hive_partitioning = true, hive_types = {{{sql_text('run_id')}: VARCHAR}}"
        parts.append(f"SELECT\n{_columns(table, 'run_id')}\nFROM read_parquet({files}, {options})\n")
    elif files in lists:
        parts.append(rows_with_run_id(table, files))
    if (files := _OLDER_FILES.format(table=table.name)) in lists:
        rows = f"read_parquet({files}, hive_partitioning = false, filename = true, union_by_name = true)"
        parts.append(_with_run_id(table, f"({sql_all_columns(table.columns, rows)})"))
    if len(parts) > 1:
        parts = ["SELECT * FROM (\n" + "UNION ALL\n".join(parts) + ")\n"]
    return f"{parts[0]}WHERE {place.IN_PLACE}\n" if parts else sql_no_rows(table.columns)


def rows_with_run_id(table: Table, files: str) -> str:
    """Write SQL for the rows of a table's files in the runs' folders, each beside the name of its run.

    Args:
        table: The table.
        files: SQL of the list of files.

    Returns:
        SQL of a query.
    """
    return _with_run_id(table, f"read_parquet({files}, hive_partitioning = false, filename = true)")


def _with_run_id(table: Table, rows: str) -> str:
    return f"SELECT\n{_columns(table, f'{_RUN_ID} AS run_id')}\nFROM {rows}\n"


def _columns(table: Table, run_id: str) -> str:
    return ",\n".join(f"    {run_id if c.name == 'run_id' else c.name}" for c in table.columns)


def _damaged(known: Survey) -> str:
    rows = [f"({sql_text(_escaped(name))}, {sql_text(s.fault)})" for name, s in known.items() if s.fault is not None]
    if not rows:
        return sql_no_rows([Column("run_id", "VARCHAR", ""), Column("reason", "VARCHAR", "")])
    return f"SELECT run_id, reason\nFROM (VALUES {', '.join(rows)}) AS t(run_id, reason)\n"


def _escaped(text: str) -> str:
    """Return a name with a backslash and a number for each byte that is not Unicode."""
    return text.encode(errors="backslashreplace").decode()


def _vector_tables(root: AnyPath, infos: Sequence[AnyPath]) -> str:
    if not infos:
        return sql_no_rows(Column(name, kind, "") for name, (kind, _, _) in _VECTOR_COLUMNS.items())
    columns = ",\n".join(f"    {source} AS {name}" for name, (_, source, _) in _VECTOR_COLUMNS.items())
    read = {"runs": "JSON", "index": "JSON"} | {
        source: kind for _, (kind, source, _) in _VECTOR_COLUMNS.items() if source.isidentifier()
    }
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in read.items())
    return (
        f"SELECT\n{columns}\nFROM read_json({place.files(below(p, root) for p in infos)}, columns = {{{spec}}}, "
        f"format = 'unstructured', hive_partitioning = false)\nWHERE {place.IN_PLACE}\n"
    )
