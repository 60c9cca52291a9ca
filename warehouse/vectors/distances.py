"""Search one Lance table, and compute distances in float64.

In: a `VectorTable` and a query as the table stores vectors. Out: Arrow rows with their `distance`, best first.

Lance rounds a query to the table's dtype and sums in float32. Where vectors lie close together, as those of first tokens do, that is
not enough to order them: more than `k` candidates are fetched, and ordered by their distances in float64 to the query as it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from warehouse.errors import TracesError, first_line
from warehouse.vectors.table import VectorTable

if TYPE_CHECKING:
    from lancedb.query import AsyncQueryBase as AsyncQuery
    from lancedb.table import AsyncTable

_MAX_RERANKED = 1000
"""Up to this many rows are ordered in float64; more keep Lance's order."""

_MAX_CANDIDATES = 50_000
"""Most candidates that are fetched to order rows in float64."""

_LOST = 1e-5
"""Most that a dot product in float32 is wrong, as part of the product of the lengths."""

SearchParams = tuple[int, int]
"""How an index is searched: nprobes, and how many times as many candidates are fetched as are ordered (refine)."""


def distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Return the distances of all rows from all queries.

    Args:
        queries: (q, D).
        rows: (n, D).
        metric: `cosine`, `l2` or `dot`.

    Returns:
        (q, n), float64: 1 - cosine (1 where a row is zero), Euclidean distance, or minus the dot product.
    """
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        return 1 - _unit(q) @ _unit(x).T
    dot = q @ x.T
    if metric == "dot":
        return -dot
    if len(q) == 1:  # exact, where the formula below loses digits
        return np.linalg.norm(x - q, axis=1)[None]
    squares = (q**2).sum(1)[:, None] + (x**2).sum(1)[None, :]
    return np.sqrt(np.maximum(squares - 2 * dot, 0))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)


def may_be_nearer(queries: np.ndarray, rows: np.ndarray, metric: str, limits: np.ndarray) -> np.ndarray:
    """Tell which rows may be as near to some query as its limit: a look in float32 that leaves few rows for `distances`.

    Args:
        queries: (q, D).
        rows: (n, D).
        metric: `cosine`, `l2` or `dot`.
        limits: A distance for each query, (q,).

    Returns:
        (n,), bool: True for every row within a limit, and for some that are a little farther.
    """
    q, x = queries.astype(np.float32), rows.astype(np.float32)
    q_norms, norms = np.linalg.norm(q, axis=1)[:, None], np.linalg.norm(x, axis=1)[None]
    limit = limits.astype(np.float32)[:, None]
    if metric == "cosine":
        least = (1 - limit - _LOST) * q_norms * norms
    elif metric == "dot":
        least = -limit - _LOST * q_norms * norms
    else:
        least = ((1 - _LOST) * (q_norms**2 + norms**2) - limit**2) / 2
    near: np.ndarray = (q @ x.T >= least).any(axis=0)
    return near


def nearest_rows(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: tuple[str, ...] = (),
    prefilter: str = "",
) -> pa.Table:
    """Return the rows nearest to a query.

    Args:
        table: The table.
        query: (D,), as the table stores vectors: less the centre where it has one.
        metric: `cosine`, `l2` or `dot`.
        k: Number of rows.
        params: How to search the index; None compares with every row.
        columns: Columns to return.
        prefilter: SQL condition on the table's columns that Lance searches under.

    Returns:
        `columns` and `distance`, best first. An index may find fewer than `k` rows.

    Raises:
        TracesError: Where the table cannot be read.
    """
    errors = (RuntimeError, OSError, ValueError, OverflowError)
    try:
        return _search(table, query, metric, k, params, columns, prefilter)
    except errors:
        table.reopen()  # another process may have cleaned up what this one had open
    try:
        return _search(table, query, metric, k, params, columns, prefilter)
    except errors as e:
        raise TracesError(
            f"{table.info.sql_name} cannot be searched ({first_line(e)[:300]}). traces index rebuild makes it again."
        ) from e


def _search(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: tuple[str, ...],
    prefilter: str,
) -> pa.Table:
    known = {name: value for name, value in table.constants.items() if name in columns}
    wanted = [c for c in columns if c not in known]
    k = min(k, max(table.count, 1))
    if k > _MAX_RERANKED:
        rows = _candidates(table, query, metric, k, params, wanted, prefilter)
        rows = _sort_by(rows, _lance_distances(rows, metric), k)
    else:
        rows = _search_reranked(table, query, metric, k, params, wanted, prefilter)
    if (
        params is None
        and metric == "cosine"
        and len(rows) < k
        and len(rows) < table.lance.count_rows(prefilter or None)
    ):
        rows = _all_rows(table, wanted, prefilter)  # Lance leaves out vectors that are zero
        rows = _sort_by(rows, distances(query[None], to_array(rows["vector"]), metric)[0], k)
    for name, value in known.items():
        rows = rows.append_column(name, pa.repeat(value, len(rows)))
    return rows


def _search_reranked(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: list[str],
    prefilter: str,
) -> pa.Table:
    """Return the `k` nearest rows by distance in float64.

    Comparing with every row, candidates are fetched until the farthest is farther than the k-th nearest by more than Lance's distances
    can be wrong: no row that was left out can then be among the nearest. From an index, which knows vectors by a byte a number,
    `refine` times as many candidates are fetched.
    """
    fetch = k + max(8, k // 4)
    if params is not None:
        nprobes, refine = params
        rows = _candidates(table, query, metric, refine * fetch, (nprobes, 0), [*columns, "vector"], prefilter)
        return _sort_by(rows, distances(query[None], to_array(rows["vector"]), metric)[0], k)
    while True:
        rows = _candidates(table, query, metric, fetch, None, [*columns, "vector"], prefilter)
        vectors = to_array(rows["vector"])
        exact = distances(query[None], vectors, metric)[0]
        if len(rows) < fetch or fetch >= min(table.count, _MAX_CANDIDATES):
            return _sort_by(rows, exact, k)
        last = _lance_distances(rows, metric).max()
        if last - _error_bound(query, vectors, metric, table.info.dtype) > np.partition(exact, k - 1)[k - 1]:
            return _sort_by(rows, exact, k)
        fetch = min(4 * fetch, _MAX_CANDIDATES)


def _candidates(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: list[str],
    prefilter: str,
) -> pa.Table:
    """Return the `k` rows nearest to a query by Lance's distances; by those of the index itself where `params` have no refine."""

    def question(lance: AsyncTable) -> AsyncQuery:
        search = lance.query().nearest_to(_scaled_query(query, metric)).column("vector").distance_type(metric)
        search = search.limit(k).select([*columns, "_distance"])
        if params is None:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(params[0])
            search = search.refine_factor(params[1]) if params[1] else search
        return search.where(prefilter) if prefilter else search

    return table.ask(question)


def _lance_distances(rows: pa.Table, metric: str) -> np.ndarray:
    """Return Lance's distances as ours: Lance gives the square of `l2`, and 1 - the dot product."""
    raw = rows["_distance"].to_numpy().astype(np.float64)
    return np.sqrt(np.maximum(raw, 0)) if metric == "l2" else raw - (metric == "dot")


def _error_bound(query: np.ndarray, rows: np.ndarray, metric: str, dtype: str) -> float:
    """Return how wrong Lance's distances can be: by rounding the query, and by some units of float32."""
    rounded = _scaled_query(query, metric)
    length = float(np.linalg.norm(rounded.astype(np.float64)))
    lost = float(np.linalg.norm(rounded - rounded.astype(dtype).astype(np.float64))) + 1e-6 * length
    if metric == "cosine":
        return lost / length + 1e-6
    return lost if metric == "l2" else lost * float(np.linalg.norm(rows.astype(np.float64), axis=1).max())


def _scaled_query(query: np.ndarray, metric: str) -> np.ndarray:
    """Scale a query so that it loses least when Lance rounds it to float16; only cosine leaves its length free."""
    query = query.astype(np.float32)
    if metric != "cosine":
        return query
    return np.ldexp(query, 10 - np.frexp(np.abs(query).max())[1])


def _sort_by(rows: pa.Table, distance: np.ndarray, k: int) -> pa.Table:
    order = np.argsort(distance, kind="stable")[:k]
    keys = {c: rows[c].take(pa.array(order)) for c in rows.column_names if c not in ("vector", "_distance")}
    return pa.table({**keys, "distance": distance[order]})


def _all_rows(table: VectorTable, columns: list[str], prefilter: str) -> pa.Table:
    scan = table.lance.search().select([*columns, "vector"]).limit(table.count)
    return (scan.where(prefilter) if prefilter else scan).to_arrow()


def scan(table: VectorTable) -> Iterator[np.ndarray]:
    """Yield all vectors of a table, (n, D), some thousands at a time."""
    for batch in table.lance.search().select(["vector"]).limit(table.count).to_batches(8192):
        yield to_array(batch["vector"])


def to_array(column: Any) -> np.ndarray:
    """Return a column of vectors as an array (n, width)."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    width = column.type.list_size
    parts = [c.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for c in chunks if len(c)]
    return np.concatenate(parts) if parts else np.empty((0, width), np.float32)
