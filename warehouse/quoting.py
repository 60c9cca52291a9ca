"""Values as SQL literals, for statements that take no parameters (views, COPY, table functions)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def sql_texts(texts: Iterable[str]) -> str:
    """`('a', 'b')` for IN; of none, a list that nothing is in."""
    return f"({', '.join(map(sql_text, texts)) or 'NULL'})"


def sql_path(path: Path, pattern: str = "") -> str:
    """`path` as a literal for read_parquet and its kin, which would take `[`, `*` and `?` in it for a glob;
    `pattern` is appended and stays one."""
    literal = re.sub(r"([\[*?])", r"[\1]", path.as_posix())
    return sql_text(f"{literal}/{pattern}" if pattern else literal)
