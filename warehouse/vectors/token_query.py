"""A token as a query: its vectors layer by layer, and what is found, with what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from warehouse.activations.gather import KEYS, stored_key
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.quoting import sql_texts
from warehouse.storage.paths import find_run
from warehouse.storage.trace_store import TraceStore
from warehouse.vectors import search
from warehouse.vectors.model_folders import find_folder
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import VectorTableCache

if TYPE_CHECKING:
    import duckdb

    from warehouse.catalog.catalog import Catalog


@dataclass(frozen=True)
class TokenQuery:
    vectors: list[tuple[VectorTable, np.ndarray]]
    """The tables to search, and the query in each."""
    head: int | None
    token: tuple[str, str, int, int] | None = None
    """run_id, example_id, seq and pos of the token that it is, which is not to be found; None: of a new text."""


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
    """A token of a run; the example by its id, or by the beginning of one. Raises NotFoundError or UsageError."""
    store = TraceStore(find_run(catalog.root, run))
    if pos < 0:
        raise UsageError(f"pos {pos}: positions are counted from 0.")
    example = _complete_id(store, example)
    return _query(catalog, tables, store, example, seq, pos, site, layers, head, (run, example, seq, pos))


def for_text(
    catalog: Catalog,
    tables: VectorTableCache,
    store: TraceStore,
    site: str,
    layers: Sequence[int] | None,
    head: int | None,
) -> TokenQuery:
    """The last token of the one text of a run: of the text, not what the tokenizer puts after it."""
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


def _complete_id(store: TraceStore, beginning: str) -> str:
    rows = store.query(
        "SELECT example_id FROM examples WHERE starts_with(example_id, ?) LIMIT 5", [beginning]
    ).fetchall()
    found = [r[0] for r in rows]
    if beginning in found or len(found) == 1:
        return beginning if beginning in found else str(found[0])
    if found:
        raise UsageError(f"Several examples begin with {beginning}: {', '.join(found)}.")
    known = [r[0] for r in store.query("SELECT example_id FROM examples ORDER BY idx LIMIT 10000").fetchall()]
    raise NotFoundError("example", beginning, known, f"(run '{store.meta.run_id}')")


def nearest(catalog: Catalog, query: TokenQuery, k: int, where: str | None, metric: str, exact: bool) -> pa.Table:
    """As `search.nearest`, the token itself left out."""
    parts = [
        search.nearest_in_table(catalog, table, vector, k + (query.token is not None), where, metric, query.head, exact)
        for table, vector in query.vectors
    ]
    found = pa.concat_tables(parts).sort_by("distance")
    if query.token is not None:
        rows = zip(*(found[name].to_pylist() for name in KEYS), strict=True)
        found = found.filter(pa.array([row != query.token for row in rows], pa.bool_()))
    return found.slice(0, k)


def with_context(catalog: Catalog, found: pa.Table) -> duckdb.DuckDBPyRelation:
    """The tokens in their sentences, best first."""
    runs, examples = (sql_texts(found[name].unique().to_pylist()) for name in ("run_id", "example_id"))
    heads = [name for name in ("head", "kv_head") if found[name].null_count < len(found)]
    numbered = found.append_column("rank", pa.array(range(len(found)), pa.int64()))
    con = catalog.cursor()
    con.register("_found", numbered)
    told = con.sql(
        f"SELECT f.distance, t.context, t.pred_token, t.upos, f.layer, {''.join(f'f.{h}, ' for h in heads)}"
        "f.run_id, f.example_id, f.seq, f.pos, f.search FROM _found AS f LEFT JOIN ("
        "SELECT run_id, example_id, seq, side, pos, context, pred_token, upos FROM token_diagnostics "
        f"WHERE run_id IN {runs} AND example_id IN {examples}"
        ") AS t USING (run_id, example_id, seq, side, pos) ORDER BY f.rank"
    ).to_arrow_table()
    if told["upos"].null_count == len(told):
        told = told.drop_columns(["upos"])
    return catalog.relation(told)
