"""What a query on the command line may do: it reads, and writes nowhere below the warehouse root.

DuckDB has no switch for that: a folder is open for reading and writing, or for neither. So statements are checked before they
run. This protects runs from slips of the hand; the duckdb shell remains for those who mean to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from warehouse.errors import UsageError
from warehouse.storage import run_list
from warehouse.storage.objects import AnyPath, local_side

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

_QUESTIONS = {"SELECT", "FROM", "WITH", "VALUES", "TABLE", "SUMMARIZE", "DESCRIBE", "SHOW", "PIVOT", "UNPIVOT"}
WRITES_LOGS = "enable_logging"
"""A table function that writes files, whatever the settings."""


def check_readonly(con: DuckDBPyConnection, text: str, root: AnyPath) -> None:
    """Check that SQL only reads, sets variables, makes temporary tables, views or macros, or copies to a file outside the root.

    Args:
        con: Any connection, to parse the SQL.
        text: The SQL, of one or several statements; duckdb.Error for what does not parse.
        root: The warehouse.

    Raises:
        UsageError: A statement does something else, or there is none.
    """
    _check_no_logs(text)
    statements = con.extract_statements(text)
    if not statements:
        raise UsageError("The query is empty.")
    for statement in statements:
        _check_statement(statement, root)


def check_one_question(con: DuckDBPyConnection, text: str) -> None:
    """Check that SQL is one SELECT, or what DuckDB takes for one; duckdb.Error for what does not parse.

    Raises:
        UsageError: It is anything else.
    """
    _check_no_logs(text)
    statements = [s for s in con.extract_statements(text) if not _is_made_by_pivot(s)]
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UsageError(f"One SELECT is needed here; this is something else: {' '.join(text.split())[:200]}")


def only_reads(con: DuckDBPyConnection, text: str) -> bool:
    """Return whether SQL changes nothing that a connection keeps, such as variables; duckdb.Error for what does not parse."""
    reading = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.COPY)
    return all(s.type in reading or _is_made_by_pivot(s) for s in con.extract_statements(text))


def check_target(path: Path, root: AnyPath) -> None:
    """Check that a file to be written is outside the warehouse, in a folder that is there.

    Raises:
        UsageError: It is below the root, by whatever name, or in a run that the root links to; or there is no such folder.
    """
    target = path.expanduser().resolve()
    for place in (local_side(root), *(p for p in run_list.run_folders(root) if p.is_symlink())):
        if isinstance(place, Path) and target.is_relative_to(place.resolve()):
            raise UsageError(f"{path} is in the warehouse {root}, which queries don't write to: name a file elsewhere.")
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}. Make it first, or name a file elsewhere.")


def _check_no_logs(text: str) -> None:
    """Check that SQL does not call the table function that writes files.

    Raises:
        UsageError: It does.
    """
    if WRITES_LOGS in text.lower():
        raise UsageError(f"{WRITES_LOGS} writes files, which a query may not do.")


def _check_statement(statement: Statement, root: AnyPath) -> None:
    """Check that a statement only does what `check_readonly` allows.

    Raises:
        UsageError: It does something else.
    """
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
        f"{first[0]} is not allowed: a query reads, and may COPY … TO a file outside of the warehouse. For the rest there is "
        "the duckdb shell."
    )


def _is_made_by_pivot(statement: Statement) -> bool:
    """Return whether a statement is one that DuckDB inserts before a PIVOT: a temporary type for its columns."""
    words = _tokens(statement.query)
    return statement.type == duckdb.StatementType.CREATE and next(words, ("", 0))[0].upper() != "CREATE"


def _copy_target(words: list[tuple[str, int]]) -> Path:
    """Return the file that a COPY writes.

    Raises:
        UsageError: It cannot be told from the statement.
    """
    to = next((i for i, (word, depth) in enumerate(words) if depth == 0 and word.upper() == "TO"), None)
    target = words[to + 1][0] if to is not None and to + 1 < len(words) else ""
    if to is None or not re.fullmatch(r"'(?:[^']|'')*'", target, re.DOTALL):
        raise UsageError("COPY needs the name of a file in quotes: COPY (SELECT …) TO 'FILE'.")
    rest = [word for word, _ in words[to + 2 :]]
    if any(word.lower() == "filename_pattern" for word in rest) and any("/" in word or "\\" in word for word in rest):
        raise UsageError("COPY with a FILENAME_PATTERN that leads to other folders is not allowed.")
    name = target[1:-1].replace("''", "'")
    return Path(re.sub(r"^file:(//(localhost)?(?=/))?", "", name))


def _tokens(query: str) -> Iterator[tuple[str, int]]:
    """Yield the tokens of a statement without comments, each with the number of brackets around it; brackets count as outside."""
    octets = query.encode()
    starts = [at for at, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment]
    depth = 0
    for at, end in pairwise([*starts, len(octets)]):
        word = octets[at:end].decode(errors="replace").strip()
        word = re.split(r"\s*(?:--|/\*)", word, maxsplit=1)[0] if not word.startswith(("'", '"', "--", "/*")) else word
        depth -= word == ")"
        yield word.rstrip(";").strip(), depth
        depth += word == "("
