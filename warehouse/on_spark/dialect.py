"""DuckDB's SQL, as the files of `sql/views/` are written in it, as Spark's.

sqlglot translates the grammar. The rules here are for functions that it leaves as they are, or that would mean another thing in Spark;
each holds wherever the function stands, in whatever view.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

_TYPES = {"VARCHAR": "STRING", "INTEGER": "INT", "TIMESTAMP": "TIMESTAMP_NTZ"}
_LOWER_HALF = ", ".join(f"SUBSTR(MD5({{0}}), {place}, 2)" for place in range(31, 16, -2))
"""The last eight bytes of a hash, the last one first."""
_FUNCTIONS = {
    "favg": "AVG({0})",
    "isfinite": "(ABS({0}) < DOUBLE('Infinity'))",  # NaN is larger than that
    "list_inner_product": "AGGREGATE(ZIP_WITH({0}, {1}, (x, y) -> x * y), DOUBLE(0), (s, x) -> s + x)",
    "list_sum": "AGGREGATE({0}, DOUBLE(0), (s, x) -> s + x)",
    "md5_number_lower": f"CAST(CONV(CONCAT({_LOWER_HALF}), 16, 10) AS DECIMAL(20, 0))",
    "strlen": "OCTET_LENGTH({0})",
}
"""Functions that only DuckDB has, and Spark's SQL for each; {0} is the first argument."""


def spark_type(duckdb_type: str) -> str:
    """Return Spark's name of a column's type."""
    element = duckdb_type.removesuffix("[]")
    name = _TYPES.get(element, element)
    return name if element == duckdb_type else f"ARRAY<{name}>"


def to_spark(query: str) -> str:
    """Translate a query.

    Args:
        query: SQL as DuckDB reads it; sqlglot.ParseError for what is not.

    Returns:
        SQL as Spark reads it, which gives the same rows.
    """
    tree = sqlglot.parse_one(query, read="duckdb")
    for node in reversed(list(tree.dfs())):  # what is inside of an expression before the expression
        other = _in_spark(node)
        if other is not None:
            node.replace(other)
    return tree.sql(dialect="spark", comments=False)


def _in_spark(node: exp.Expr) -> exp.Expr | None:
    """Return what stands for an expression in Spark; None where sqlglot writes the right thing by itself."""
    match node:
        case exp.Anonymous() if text := _FUNCTIONS.get(node.name.lower()):
            return _filled(text, *node.expressions)
        case exp.IgnoreNulls(this=exp.AnyValue(this=value)):
            return exp.Anonymous(this="ANY_VALUE", expressions=[value, exp.true()])
        case exp.PercentileCont(this=value, expression=part) if part is not None:
            return _filled("PERCENTILE({0}, {1})", value, part)
        case exp.Bracket(expressions=[exp.Literal(is_string=False)]):  # of a list, beyond whose end is NULL
            return _filled("GET({0}, {1})", node.this, *node.expressions)
        case exp.JSONExtractScalar(this=exp.Cast(this=text), expression=exp.Column()):
            return _filled("FROM_JSON({0}, 'MAP<STRING, STRING>')[{1}]", text, node.expression)
    return None


def _filled(text: str, *arguments: exp.Expr) -> exp.Expr:
    """Return Spark's SQL with arguments in their places."""
    return sqlglot.parse_one(text.format(*(argument.sql(dialect="spark") for argument in arguments)), read="spark")
