"""Search by a token instead of a vector.

In: a token of a run, or the text of a new one. Out: its vectors layer by layer as a `TokenQuery`, the nearest tokens, and those in
their sentences. `traces nearest` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from warehouse.activations.gather import KEYS, stored_key
from warehouse.errors import UsageError
from warehouse.schema.quoting import sql_texts
from warehouse.vectors import search
from warehouse.vectors.model_folders import find_folder
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import VectorTableCache

if TYPE_CHECKING:
    import duckdb

    from warehouse.catalog.catalog import Catalog
    from warehouse.storage.trace_store import TraceStore


@dataclass(frozen=True)
class TokenQuery:
    """A token's vectors, as queries."""

    vectors: list[tuple[VectorTable, np.ndarray]]
    """The tables to search, and the query for each."""
    head: int | None
    """Query head to search; None for a site without heads."""
    token: tuple[str, str, int, int] | None = None
    """run_id, example_id, seq and pos of the token, which is left out of the answer; None for a token of a new text."""


def for_token(
    catalog: Catalog,
    tables: VectorTableCache,
    run: str,
    example: str,
    seq: int,
    pos: int,
    site: str,
    layers: Sequence[int] | None,
    head: int | None,
) -> TokenQuery:
    """Make a query of a token of a run.

    Args:
        catalog: The warehouse.
        tables: Its vector tables.
        run: The run.
        example: The example's id, or the beginning of it.
        seq: The sequence.
        pos: The position, from 0.
        site: Name of the site.
        layers: Layers to search; None for all that have a vector table.
        head: Query head, for a site with heads.

    Returns:
        The query.

    Raises:
        UsageError: For a position outside the sequence, an ambiguous example, or a head that the site needs or does not have.
        NotFoundError: For a run, an example or a site that does not exist.
    """
    store = catalog.cached_run(run)
    if pos < 0:
        raise UsageError(f"pos {pos}: positions are counted from 0.")
    example = store.find_example(example)
    return _query(catalog, tables, store, example, seq, pos, site, layers, head, (run, example, seq, pos))


def for_text(
    catalog: Catalog,
    tables: VectorTableCache,
    store: TraceStore,
    site: str,
    layers: Sequence[int] | None,
    head: int | None,
) -> TokenQuery:
    """Make a query of the last token of a run's only text, before any token that the tokenizer appends.

    Args:
        catalog: The warehouse.
        tables: Its vector tables.
        store: The run, which need not be published.
        site: Name of the site.
        layers: Layers to search; None for all that have a vector table.
        head: Query head, for a site with heads.

    Returns:
        The query.
    """
    query = "SELECT example_id, max(pos) FROM tokens GROUP BY example_id, is_special ORDER BY is_special LIMIT 1"
    ((example, pos),) = store.query(query).fetchall()
    return _query(catalog, tables, store, example, 0, pos, site, layers, head, None)


def _query(
    catalog: Catalog,
    tables: VectorTableCache,
    store: TraceStore,
    example: str,
    seq: int,
    pos: int,
    site: str,
    layers: Sequence[int] | None,
    head: int | None,
    token: tuple[str, str, int, int] | None,
) -> TokenQuery:
    model = store.meta.model
    folder = find_folder(catalog.root, model)
    if folder is None:
        raise UsageError(
            f"There are no vector tables of {model.name} with these weights. Make one: traces index add --help"
        )
    chosen = search.choose_tables(tables, catalog.root, site, layers, folder, None)
    vectors = []
    for table in chosen:
        key = stored_key(store, table.info.site, table.info.layer, table.info.side)
        rows = store.rows(key, example, seq)
        if not -len(rows) <= pos < len(rows):
            raise UsageError(f"pos {pos}: example {example}, seq {seq} has positions 0 to {len(rows) - 1}.")
        vector = rows[pos]
        if vector.ndim == 2:
            if head is None:
                raise UsageError(f"{site} has a vector for every head: say which, with --head.")
            vector = vector[store.own_head(key, head)]
        elif head is not None:
            raise UsageError(f"{site} has no heads.")
        vectors.append((table, vector))
    return TokenQuery(vectors, head, token)


def nearest(catalog: Catalog, query: TokenQuery, k: int, where: str | None, metric: str, exact: bool) -> pa.Table:
    """Search as `search.nearest` does, and leave out the token itself."""
    parts = [
        search.nearest_in_table(catalog, table, vector, k + (query.token is not None), where, metric, query.head, exact)
        for table, vector in query.vectors
    ]
    near = pa.concat_tables(parts).sort_by("distance")
    if query.token is not None:
        keys = zip(*(near[name].to_pylist() for name in KEYS), strict=True)
        near = near.filter(pa.array([key != query.token for key in keys], pa.bool_()))
    return near.slice(0, k)


def with_context(catalog: Catalog, near: pa.Table) -> duckdb.DuckDBPyRelation:
    """Show the tokens that a search found in their sentences, best first.

    Args:
        catalog: The warehouse.
        near: What `nearest` returned.

    Returns:
        A row per token, with its distance, its sentence, its predicted token and its keys; `upos` only where it is known of any.
    """
    runs, examples = (sql_texts(near[name].unique().to_pylist()) for name in ("run_id", "example_id"))
    heads = [name for name in ("head", "kv_head") if near[name].null_count < len(near)]
    numbered = near.append_column("rank", pa.array(range(len(near)), pa.int64()))
    con = catalog.cursor()
    con.register("_near", numbered)
    rows = con.sql(
        f"SELECT f.distance, t.context, t.pred_token, t.upos, f.layer, {''.join(f'f.{h}, ' for h in heads)}"
        "f.run_id, f.example_id, f.seq, f.pos, f.search FROM _near AS f LEFT JOIN ("
        "SELECT run_id, example_id, seq, side, pos, context, pred_token, upos FROM token_diagnostics "
        f"WHERE run_id IN {runs} AND example_id IN {examples}"
        ") AS t USING (run_id, example_id, seq, side, pos) ORDER BY f.rank"
    ).to_arrow_table()
    if rows["upos"].null_count == len(rows):
        rows = rows.drop_columns(["upos"])
    return catalog.relation(rows)
