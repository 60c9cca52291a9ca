"""Split a `where`: conditions on key columns alone go to Lance, all others are evaluated over the view token_diagnostics.

In: the SQL condition that a user gives `Warehouse.nearest` or `Warehouse.batches`. Out: a checked condition that cannot be more than a
condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse.catalog.statements import WRITES_LOGS
from warehouse.errors import UsageError, first_line

if TYPE_CHECKING:
    from sqlglot import exp


_TEXT = ("run_id", "example_id")
_NUMBERS = ("seq", "pos", "layer")


@dataclass(frozen=True)
class Filter:
    """A `where` in two parts, either of which may be empty."""

    keys: str = ""
    """Conditions on key columns alone, in SQL that Lance understands too."""
    views: str = ""
    """The other conditions, in DuckDB's SQL."""


def split_filter(where: str | None) -> Filter:
    """Split a condition into what Lance can evaluate and what needs the views.

    Args:
        where: A SQL condition; None or blank for none.

    Returns:
        Both parts. Joined by AND they mean what `where` means.

    Raises:
        UsageError: For text that is not SQL, or is more than one condition.
    """
    if where is None or not where.strip():
        return Filter()
    import sqlglot
    from sqlglot import errors, exp

    try:
        trees = sqlglot.parse(f"SELECT 1 WHERE {where}", dialect="duckdb")
    except (errors.SqlglotError, RecursionError) as e:
        raise UsageError(f"The filter is not SQL: {first_line(e)} ({where[:200]})") from None
    tree = trees[0]
    if len(trees) != 1 or tree is None or WRITES_LOGS in where.lower():
        raise UsageError(f"The filter is more than a condition: {where[:200]}")
    clause = tree.args.get("where")
    given = {name for name, value in tree.args.items() if value}
    if not isinstance(tree, exp.Select) or clause is None or given - {"expressions", "where"}:
        raise UsageError(f"The filter is more than a condition: {where}")
    parts = list(clause.this.flatten()) if isinstance(clause.this, exp.And) else [clause.this]
    on_keys, rest = [p for p in parts if _compares_keys_only(p)], [p for p in parts if not _compares_keys_only(p)]
    return Filter(*(" AND ".join(f"({p.sql(dialect='duckdb')})" for p in group) for group in (on_keys, rest)))


def condition(where: str | None) -> str:
    """Return a `where` for DuckDB, in brackets that nothing in it can close; raises UsageError as `split_filter` does."""
    parts = split_filter(where)
    return " AND ".join(part for part in (parts.keys, parts.views) if part) or "true"


def _compares_keys_only(part: exp.Expr) -> bool:
    """Tell whether a condition compares key columns with values, in SQL that DuckDB and Lance both know."""
    from sqlglot import exp

    part = part.unnest()
    if isinstance(part, exp.And | exp.Or):
        return _compares_keys_only(part.left) and _compares_keys_only(part.right)
    if isinstance(part, exp.In):
        values, column = part.expressions, part.this
        if not values or part.args.get("query") or part.args.get("unnest"):
            return False
    elif isinstance(part, exp.Between):
        values, column = [part.args["low"], part.args["high"]], part.this
    elif isinstance(part, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE):
        values, column = [part.right], part.left
    else:
        return False
    if not isinstance(column, exp.Column) or column.table or column.this.quoted:
        return False
    name = column.name.lower()
    text = name in _TEXT and not isinstance(part, exp.Between)
    if not text and name not in _NUMBERS:
        return False
    return all(isinstance(v, exp.Literal) and (v.is_string if text else _fits_int64(v)) for v in values)


def _fits_int64(value: exp.Literal) -> bool:
    return not value.is_string and value.name.isdigit() and int(value.name) < 1 << 62
