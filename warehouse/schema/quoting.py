"""Values as SQL literals, for statements that take no parameters (views, COPY, table functions)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warehouse.schema.types import Column


def sql_text(text: str) -> str:
    """Quote a text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_texts(texts: Iterable[str]) -> str:
    """Write texts as a list for IN, such as `('a', 'b')`; an empty list becomes `(NULL)`, which nothing is in."""
    return f"({', '.join(map(sql_text, texts)) or 'NULL'})"


def sql_path(path: object) -> str:
    """Quote the path of an existing file, local or in an object store, for table functions; DuckDB takes a name that no file has for a pattern."""
    return sql_text(str(path))


def sql_paths(paths: Iterable[object]) -> str:
    """Write a list of existing files for table functions such as read_parquet."""
    return f"[{', '.join(map(sql_path, paths))}]"


def sql_pattern(folder: Path, pattern: str) -> str:
    """Write a glob pattern for the files below a folder; a backslash in the folder's own path cannot be escaped."""
    literal = re.sub(r"([\[*?])", r"[\1]", folder.as_posix())
    return sql_text(f"{literal}/{pattern}")


def sql_parquet(paths: Iterable[object]) -> str:
    """Write SQL for the rows of Parquet files, without the columns that DuckDB would make of folders named `key=value`."""
    return f"read_parquet({sql_paths(paths)}, hive_partitioning = false)"


def sql_no_rows(columns: Iterable[Column]) -> str:
    """Write SQL for a table with these columns and no rows."""
    typed = ",\n".join(f"    NULL::{c.sql} AS {c.name}" for c in columns)
    return f"SELECT\n{typed}\nWHERE false\n"


def sql_all_columns(columns: Iterable[Column], rows: str, *pseudocolumns: str) -> str:
    """Write SQL for rows with all columns of a table, NULL in those that runs of an older schema version lack.

    Args:
        columns: The table's columns; only nullable ones may be missing.
        rows: SQL of the rows.
        *pseudocolumns: Pseudocolumns to keep beside the columns, such as `filename`.

    Returns:
        SQL of a query.
    """
    newer = ", ".join(f"NULL::{c.sql} AS {c.name}" for c in columns if c.nullable)
    query = f"SELECT {', '.join(('*', *pseudocolumns))} FROM {rows}"
    return f"{query} UNION ALL BY NAME SELECT {newer} WHERE false" if newer else query
