"""Asking a warehouse with values in the places of `?`: how functions that put several answers together are given their questions.

In: a catalog. Out: a function of a query and its values that returns the rows. A caller that has to be able to stop a query, such as
the console, hands in one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalog.catalog import Catalog


class Ask(Protocol):
    """Asks one question of a warehouse."""

    def __call__(self, query: str, *values: Any) -> pa.Table:
        """Return the rows of a query, each `?` of which stands for a value."""


def asker(catalog: Catalog) -> Ask:
    """Return what asks a warehouse, each question through a connection of its own."""

    def ask(query: str, *values: Any) -> pa.Table:
        return catalog.attempt(lambda: catalog.cursor().execute(query, list(values)).to_arrow_table())

    return ask
