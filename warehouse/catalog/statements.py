"""What a query on the command line may do: it reads, and writes nowhere below the warehouse root.

DuckDB has no switch for that: what it allows a folder is reading and writing alike. So statements are looked at before they run.
This keeps a slip of the hand from a run; who means to write there has a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from warehouse.errors import UsageError
from warehouse.storage import paths

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

_QUESTIONS = {"SELECT", "FROM", "WITH", "VALUES", "TABLE", "SUMMARIZE", "DESCRIBE", "SHOW", "PIVOT", "UNPIVOT"}
WRITES_LOGS = "enable_logging"
"""A table function that writes files, whatever the settings are."""


def check_readonly(con: DuckDBPyConnection, text: str, root: Path) -> None:
    """Raises UsageError for a text with a statement that is no question, nor `SET VARIABLE`, `COPY … TO` a file outside of the
    root, or a temporary table, view or macro; duckdb.Error for one that is no SQL.
    """
    _check_no_logs(text)
    statements = con.extract_statements(text)
    if not statements:
        raise UsageError("The query is empty.")
    for statement in statements:
        _check_statement(statement, root)


def check_one_question(con: DuckDBPyConnection, text: str) -> None:
    """Raises UsageError for anything but one SELECT, or what DuckDB takes for one; duckdb.Error for what is no SQL."""
    _check_no_logs(text)
    statements = [s for s in con.extract_statements(text) if not _is_made_by_pivot(s)]
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UsageError(f"One SELECT is needed here; this is something else: {' '.join(text.split())[:200]}")


def only_reads(con: DuckDBPyConnection, text: str) -> bool:
    """Whether a text changes nothing that a connection keeps, such as variables; raises duckdb.Error for what is no SQL."""
    asking = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.COPY)
    return all(s.type in asking or _is_made_by_pivot(s) for s in con.extract_statements(text))


def check_target(path: Path, root: Path) -> None:
    """Raises UsageError for a file below the root, by whatever name, or in a run that the root links to."""
    target = path.expanduser().resolve()
    for place in (root, *(p for p in paths.run_folders(root) if p.is_symlink())):
        if target.is_relative_to(place.resolve()):
            raise UsageError(f"{path} is in the warehouse {root}, which queries don't write to: name a file elsewhere.")


def _check_no_logs(text: str) -> None:
    if WRITES_LOGS in text.lower():
        raise UsageError(f"{WRITES_LOGS} writes files, and is not for queries here.")


def _check_statement(statement: Statement, root: Path) -> None:
    words = list(_tokens(statement.query))
    first = [word.upper() for word, depth in words if depth == 0]
    kind = statement.type
    if kind == duckdb.StatementType.SELECT or _is_made_by_pivot(statement):
        return
    if kind == duckdb.StatementType.SET and first[1:2] == ["VARIABLE"]:
        return
    if kind == duckdb.StatementType.EXPLAIN:
        rest = [word for word in first[1:] if word not in ("ANALYZE", "(", ")")]
        if not rest or rest[0] in _QUESTIONS:
            return
    if kind == duckdb.StatementType.CREATE and {"TEMP", "TEMPORARY"} & set(first[1:4]) and "SECRET" not in first:
        return
    if kind == duckdb.StatementType.COPY:
        check_target(_copy_target(words), root)
        return
    raise UsageError(
        f"{first[0]} is not for here: a query reads, and may COPY … TO a file outside of the warehouse. For the rest there is "
        "the duckdb shell."
    )


def _is_made_by_pivot(statement: Statement) -> bool:
    """Whether it is what DuckDB makes, of itself, before a PIVOT: a temporary type for its columns."""
    words = _tokens(statement.query)
    return statement.type == duckdb.StatementType.CREATE and next(words, ("", 0))[0].upper() != "CREATE"


def _copy_target(words: list[tuple[str, int]]) -> Path:
    """The file that a COPY writes. Raises UsageError where that cannot be told."""
    at = next((i for i, (word, depth) in enumerate(words) if depth == 0 and word.upper() == "TO"), None)
    target = words[at + 1][0] if at is not None and at + 1 < len(words) else ""
    if at is None or not re.fullmatch(r"'(?:[^']|'')*'", target, re.DOTALL):
        raise UsageError("COPY is for writing a file that is named by a text in quotes: COPY (SELECT …) TO 'FILE'.")
    rest = [word for word, _ in words[at + 2 :]]
    if any(word.lower() == "filename_pattern" for word in rest) and any("/" in word or "\\" in word for word in rest):
        raise UsageError("COPY with a FILENAME_PATTERN that leads to other folders is not for here.")
    name = target[1:-1].replace("''", "'")
    return Path(re.sub(r"^file:(//(localhost)?(?=/))?", "", name))


def _tokens(query: str) -> Iterator[tuple[str, int]]:
    """The tokens of a statement, comments apart, and in how many brackets each stands; brackets themselves stand outside."""
    octets = query.encode()
    starts = [at for at, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment]
    depth = 0
    for at, end in pairwise([*starts, len(octets)]):
        word = octets[at:end].decode(errors="replace").strip()
        word = re.split(r"\s*(?:--|/\*)", word, maxsplit=1)[0] if not word.startswith(("'", '"', "--", "/*")) else word
        depth -= word == ")"
        yield word.rstrip(";").strip(), depth
        depth += word == "("
