"""A word in a query that was meant as text, and lacks its quotes: `run_id = mine`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from warehouse.errors import UsageError
from warehouse.schema.quoting import sql_text
from warehouse.storage import run_list

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse

_UNKNOWN = re.compile(
    r'(?:Referenced column|Referenced table|column) "(.+?)" (?:not found|was not found)', re.IGNORECASE
)
"""What DuckDB says about a word that names no column."""


@contextmanager
def suggests_quotes(wh: Warehouse, query: str) -> Iterator[None]:
    """Have an error about a column that does not exist say that the word needs quotes, if it was meant as text.

    Args:
        wh: The warehouse, whose runs' names and text columns tell what was meant.
        query: The SQL that is run in the block.

    Raises:
        UsageError: A word is the name of a run, or is compared with a column of text, and has no quotes.
        BinderException: The word does not seem to be meant as text.
    """
    import duckdb

    try:
        yield
    except (duckdb.BinderException, UsageError) as e:
        unknown = _UNKNOWN.search(str(e))
        meant = unknown and _comparison(wh, query, unknown[1])
        if not unknown or not meant:
            raise
        raise UsageError(f"There is no column '{unknown[1]}'. Text needs single quotes: {meant}") from None


def _comparison(wh: Warehouse, query: str, word: str) -> str | None:
    """Return the comparison with a word as it was meant, `run_id = 'mine'`; None if the word does not seem to be text."""
    columns = "SELECT DISTINCT lower(column_name) FROM duckdb_columns() WHERE data_type = 'VARCHAR'"
    texts = {name for (name,) in wh.cursor().execute(columns).fetchall()}
    match = re.search(rf'(\w+)\s*(==?|<>|!=|i?like)\s*"?({re.escape(word)}[\w./-]*)', query, re.IGNORECASE)
    if match and match[1].lower() in texts:
        return f"{match[1]} {match[2]} {sql_text(match[3])}"
    return f"run_id = {sql_text(word)}" if word in run_list.published_runs(wh.root) else None
