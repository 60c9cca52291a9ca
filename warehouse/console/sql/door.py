"""The door: which SQL of the page is let through to DuckDB.

In: the text of a query, and the names of the tables and views that it may read. Out: nothing, or a `RefusedError` that says in one
line what is refused and where. DuckDB's own parser reads the text (no second grammar that could read it otherwise), and everything in
its tree has to be of a kind that is listed here: statements, references to tables, expressions, functions. What is not listed is
refused, whatever it may be.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb

from warehouse.catalog.build import ATTACHED
from warehouse.catalog.place import STATE_VIEW
from warehouse.console.sql.functions import CONDITION_FUNCTIONS, FUNCTIONS, TABLE_FUNCTIONS
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.strict_json import half_pair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

LONGEST = 100_000
"""Characters of a query. DuckDB's parser takes half a minute over a million."""
_LONGEST_CONDITION = 4_000
"""Characters of a condition, which the server's own process parses."""
TABLE_FUNCTION_NAMES = ", ".join(sorted(TABLE_FUNCTIONS))

_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"}
_REFERENCES = {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
_PARTS = {
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
}  # fmt: skip
_EXPRESSIONS = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "DEFAULT", "FUNCTION", "LAMBDA",
    "LAMBDA_REF", "OPERATOR", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "WINDOW", "TYPE",
}  # fmt: skip
_QUALIFIED = {("", ""), ("", "main"), ("warehouse", "main"), ("", "warehouse")}
"""The catalogs and schemas that a table may be named with."""
_SHOWN = {"", '"tables"'}
"""What SHOW may show: a table or a query, which stand beneath, and the names of all tables."""
_NOWHERE = 2**64 - 1


class RefusedError(UsageError):
    """The door refuses a query."""

    def __init__(self, message: str, position: int | None = None) -> None:
        self.position = position if position != _NOWHERE else None
        """The byte of the query that it is about."""
        super().__init__(message)


def check(con: duckdb.DuckDBPyConnection, text: str, tables: Collection[str]) -> str:
    """Check that SQL is one question over the tables that may be read.

    Args:
        con: Any connection, which parses the SQL; duckdb.Error for what does not parse.
        text: The SQL.
        tables: The names of tables and views that it may read.

    Returns:
        The statement, to be executed as it is.

    Raises:
        RefusedError: It is something else.
    """
    if len(text) > LONGEST:
        raise RefusedError(f"The query has {len(text):,} characters; {LONGEST:,} are the most.")
    if half_pair(text):
        raise RefusedError("The query is not UTF-8 text.")
    if "\0" in text:
        raise RefusedError("The query holds a character that SQL does not have (NUL).", text.index("\0"))
    _parse(con, text, _Check({_lower(name) for name in tables}, FUNCTIONS, _EXPRESSIONS))
    (statement,) = con.extract_statements(text)
    return statement.query


def _parse(con: duckdb.DuckDBPyConnection, text: str, check: _Check) -> dict[str, Any]:
    """Return the tree of a question, all of which has been checked.

    Raises:
        RefusedError: It is something else.
    """
    (found,) = con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0]
    try:
        tree = json.loads(found)
        if tree["error"] and tree["error_type"] == "parser":
            con.extract_statements(text)  # which raises it, with its place
        # Not before: to extract the statement IMPORT DATABASE, DuckDB reads the files that it names.
        if tree["error"]:
            raise RefusedError(
                "Only one question is asked here: SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES, "
                "and PIVOT with its values (ON column IN (…)). `traces sql` and `traces shell` can do more."
            )
        if not tree["statements"]:
            raise RefusedError("The query is empty.")
        if len(tree["statements"]) > 1:
            raise RefusedError(f"One question at a time: these are {len(tree['statements'])}.")
        if [s.type for s in con.extract_statements(text)] != [duckdb.StatementType.SELECT]:
            raise RefusedError("Only one question is asked here.")
        node: dict[str, Any] = tree["statements"][0]["node"]
        check.walk(node, frozenset())
    except RecursionError:
        raise RefusedError("The query is nested too deeply.") from None
    return node


def check_condition(con: duckdb.DuckDBPyConnection, condition: str) -> None:
    """Check that SQL is one condition on the columns of a row, as what follows WHERE, with nothing that takes long.

    Args:
        con: Any connection, which parses the SQL; duckdb.Error for what does not parse.
        condition: The SQL.

    Raises:
        RefusedError: It is something else.
    """
    if len(condition) > _LONGEST_CONDITION:
        raise RefusedError(f"The condition has {len(condition):,} characters; {_LONGEST_CONDITION:,} are the most.")
    node = _parse(
        con, f"SELECT ({condition}\n)", _Check(set(), CONDITION_FUNCTIONS, _EXPRESSIONS - {"SUBQUERY", "LAMBDA"})
    )
    alone = _parse(con, "SELECT (true\n)", _Check(set(), CONDITION_FUNCTIONS, _EXPRESSIONS))
    rest, rest_alone = ({k: v for k, v in n.items() if k != "select_list"} for n in (node, alone))
    if len(node.get("select_list", ())) != 1 or rest != rest_alone:
        raise RefusedError("One condition is needed here, as what follows WHERE.")


def readable(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Return the names of the tables and views of a connection that a query may read."""
    found = con.execute("SELECT view_name FROM duckdb_views() WHERE database_name = ?", [ATTACHED]).fetchall()
    return {name for (name,) in found} - {STATE_VIEW}


def place(text: str, position: int | None) -> dict[str, int]:
    """Return line and column, from 1, of a byte of a query; nothing where it is not known."""
    if position is None:
        return {}
    before = text.encode(errors="replace")[:position].decode(errors="ignore")
    return {"line": before.count("\n") + 1, "column": len(before) - (before.rfind("\n") + 1) + 1}


class _Check:
    """The walk through the tree of a query."""

    def __init__(self, tables: Collection[str], functions: Collection[str], expressions: Collection[str]) -> None:
        self._tables, self._functions, self._expressions = tables, functions, expressions

    def walk(self, part: Any, defined: frozenset[str]) -> None:
        """Check a part of the tree and all below it.

        Args:
            part: The part.
            defined: The names that WITH has defined around it.

        Raises:
            RefusedError: Something in it is not listed.
        """
        if isinstance(part, list):
            for item in part:
                self.walk(item, defined)
        if not isinstance(part, dict):
            return
        if "class" in part:
            if part["class"] not in self._expressions:
                raise RefusedError(_unlisted(part["class"]), part.get("query_location"))
            if part["class"] == "CONSTANT":
                return  # a value, and nothing below it that could be called
            if part["class"] in ("FUNCTION", "WINDOW"):
                self._check_function(part)
        elif isinstance(part.get("type"), str):
            if part["type"] in _NODES:
                defined = self._walk_definitions(part, defined)
            elif part["type"] in _REFERENCES:
                self._check_reference(part, defined)
            elif part["type"] not in _PARTS and not part["type"].endswith("_TYPE_INFO"):
                raise RefusedError(_unlisted(part["type"]), part.get("query_location"))
        for name, below in part.items():
            if name == "function" and part.get("type") == "TABLE_FUNCTION":
                below = list(below.values())  # its name has been checked against the shorter list
            if name != "cte_map" or part.get("type") not in _NODES:
                self.walk(below, defined)

    def _walk_definitions(self, node: dict[str, Any], defined: frozenset[str]) -> frozenset[str]:
        """Check what WITH defines, each by the names that stand before it.

        Returns:
            The names that hold in the node itself.
        """
        for name, query in _definitions(node):
            recursive = query["query"]["node"]["type"] == "RECURSIVE_CTE_NODE"
            self.walk(query, defined | {name} if recursive else defined)
            defined |= {name}
        return defined

    def _check_function(self, call: dict[str, Any]) -> None:
        name = _lower(call["function_name"])
        if name in self._functions:
            return
        hint = " Write the value itself." if name == "getvariable" else ""
        raise RefusedError(f"The function {name} is not available here.{hint}", call["query_location"])

    def _check_reference(self, table: dict[str, Any], defined: frozenset[str]) -> None:
        """Check what stands in FROM.

        Raises:
            RefusedError: It may not.
        """
        at = table.get("query_location")
        if table["type"] == "TABLE_FUNCTION":
            function = table["function"]
            if function.get("class") != "FUNCTION" or _lower(function["function_name"]) not in TABLE_FUNCTIONS:
                raise RefusedError(
                    f"{function.get('function_name')} may not stand in FROM: only tables, views, and {TABLE_FUNCTION_NAMES}.",
                    at,
                )
        if table["type"] == "SHOW_REF" and (
            table["table_name"] not in _SHOWN or table["catalog_name"] or table["schema_name"]
        ):
            raise RefusedError("SHOW shows TABLES, or one table: SHOW tokens.", at)
        if table["type"] != "BASE_TABLE":
            return
        name = table["table_name"]
        where = table["catalog_name"], table["schema_name"]
        if where == ("", "") and _lower(name) in defined:
            return
        if any(c in name for c in "/.*:\\"):
            raise RefusedError(f"'{name}' is no table: files are not read here.", at)
        if tuple(map(_lower, where)) not in _QUALIFIED or _lower(name) not in self._tables:
            shown = ".".join(part for part in (*where, name) if part)
            raise RefusedError(str(NotFoundError("table or view", shown, sorted(self._tables))), at)
        if table.get("at_clause"):
            raise RefusedError("Tables have no versions here.", at)


def _definitions(node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names that WITH defines in a node, in order.

    Raises:
        RefusedError: One of them looks like a file's, which it would be wherever it is not defined.
    """
    for entry in node["cte_map"]["map"]:
        name = _lower(entry["key"])
        if any(c in name for c in "/.*:\\"):
            raise RefusedError(f"WITH may not define '{name}': a name has none of / . * : \\")
        yield name, entry["value"]


def _lower(name: str) -> str:
    """Return a name as DuckDB compares it: only ASCII letters have a case (to Python, a Kelvin sign is a capital k)."""
    return "".join(c.lower() if c.isascii() else c for c in name)


def _unlisted(kind: str) -> str:
    if kind == "PARAMETER":
        return "A parameter has no value here: write the value itself."
    return f"{kind.replace('_', ' ').lower()}: this is not available here."
