"""Values as SQL literals, for statements that take no parameters (views, COPY, table functions)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warehouse.schema.types import Column


def sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def sql_texts(texts: Iterable[str]) -> str:
    """`('a', 'b')` for IN; of none, a list that nothing is in."""
    return f"({', '.join(map(sql_text, texts)) or 'NULL'})"


def sql_path(path: Path) -> str:
    """A file as a literal for read_parquet and its kin. It must be there: DuckDB takes a name that is none of a file's for a
    pattern.
    """
    return sql_text(str(path))


def sql_parquet(paths: Iterable[Path]) -> str:
    """SQL for the rows of Parquet files, whatever the folders above them are called: DuckDB makes columns of `key=value`."""
    return f"read_parquet({sql_paths(paths)}, hive_partitioning = false)"


def sql_no_rows(columns: Iterable[Column]) -> str:
    """SQL for a table with these columns and no rows."""
    typed = ",\n".join(f"    NULL::{c.sql} AS {c.name}" for c in columns)
    return f"SELECT\n{typed}\nWHERE false\n"


def sql_all_columns(columns: Iterable[Column], rows: str, *more: str) -> str:
    """SQL for rows, with the columns that runs of older schema versions don't have, as NULL; `more`: pseudocolumns to keep."""
    newer = ", ".join(f"NULL::{c.sql} AS {c.name}" for c in columns if c.nullable)
    query = f"SELECT {', '.join(('*', *more))} FROM {rows}"
    return f"{query} UNION ALL BY NAME SELECT {newer} WHERE false" if newer else query


def sql_paths(paths: Iterable[Path]) -> str:
    """A list of files, for the same."""
    return f"[{', '.join(map(sql_path, paths))}]"


def sql_pattern(folder: Path, pattern: str) -> str:
    """The files below a folder that fit a pattern, for the same; not where the folder's name has a backslash in it."""
    literal = re.sub(r"([\[*?])", r"[\1]", folder.as_posix())
    return sql_text(f"{literal}/{pattern}")
