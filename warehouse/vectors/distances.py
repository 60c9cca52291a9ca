"""Asking a Lance table, and distances: computed once more in float64 from the vectors that were found.

Lance rounds a query to the table's dtype and adds up in float32. Where vectors lie close together, as first tokens do, that is not
enough to order them: candidates are asked for beyond `k`, and put in order by the query as it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.errors import TracesError, first_line
from warehouse.vectors.table import VectorTable

_MAX_RERANKED = 1000
"""Up to so many rows are put in order in float64; more are left as Lance has them."""

_MAX_CANDIDATES = 50_000
"""Most candidates for them."""

SearchParams = tuple[int, int]
"""How an index is asked: nprobes and refine."""


def distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """(queries, rows), float64: 1 - cosine (1 where a row is zero), Euclidean distance, or minus the dot product."""
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        return 1 - _unit(q) @ _unit(x).T
    dot = q @ x.T
    if metric == "dot":
        return -dot
    if len(q) == 1:  # without the cancellation of the other way
        return np.linalg.norm(x - q, axis=1)[None]
    squares = (q**2).sum(1)[:, None] + (x**2).sum(1)[None, :]
    return np.sqrt(np.maximum(squares - 2 * dot, 0))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)


def nearest_rows(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: tuple[str, ...] = (),
    prefilter: str = "",
) -> pa.Table:
    """The `k` rows nearest to a query as the table stores vectors, best first, with `columns` and their `distance`: through the
    index by `way`, or exactly. An index may give fewer. Raises TracesError where the table cannot be read.
    """
    for again in (False, True):
        try:
            return _search(table, query, metric, k, params, columns, prefilter)
        except (RuntimeError, OSError, ValueError, OverflowError) as e:
            if again:
                raise TracesError(
                    f"{table.info.sql_name} cannot be searched ({first_line(e)[:300]}). traces index rebuild makes it again."
                ) from e
            table.reopen()  # another process has cleaned up what this one had open
    raise AssertionError


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
        found = _candidates(table, query, metric, k, params, wanted, prefilter)
        found = _sort_by(found, _lance_distances(found, metric), k)
    else:
        found = _search_reranked(table, query, metric, k, params, wanted, prefilter)
    if (
        params is None
        and metric == "cosine"
        and len(found) < k
        and len(found) < table.lance.count_rows(prefilter or None)
    ):
        found = _all_rows(table, wanted, prefilter)  # Lance leaves out vectors that are zero
        found = _sort_by(found, distances(query[None], to_array(found["vector"]), metric)[0], k)
    for name, value in known.items():
        found = found.append_column(name, pa.repeat(value, len(found)))
    return found


def _search_reranked(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: list[str],
    prefilter: str,
) -> pa.Table:
    """The `k` nearest of as many candidates as it takes for the next one to be farther by more than Lance may be wrong."""
    asked = k + max(8, k // 4)
    while True:
        found = _candidates(table, query, metric, asked, params, [*columns, "vector"], prefilter)
        rows = to_array(found["vector"])
        true = distances(query[None], rows, metric)[0]
        if len(found) < asked or asked >= min(table.count, _MAX_CANDIDATES):
            return _sort_by(found, true, k)
        last = _lance_distances(found, metric).max()
        if last - _error_bound(query, rows, metric, table.info.dtype) > np.partition(true, k - 1)[k - 1]:
            return _sort_by(found, true, k)
        asked = min(4 * asked, _MAX_CANDIDATES)


def _candidates(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    params: SearchParams | None,
    columns: list[str],
    prefilter: str,
) -> pa.Table:
    search: Any = table.lance.search(_scaled_query(query, metric), vector_column_name="vector")
    search = search.distance_type(metric).limit(k).select([*columns, "_distance"])
    search = search.bypass_vector_index() if params is None else search.nprobes(params[0]).refine_factor(params[1])
    return (search.where(prefilter, prefilter=True) if prefilter else search).to_arrow()


def _lance_distances(found: pa.Table, metric: str) -> np.ndarray:
    """Lance's distances, which are squared by l2, and 1 - the dot product."""
    raw = found["_distance"].to_numpy().astype(np.float64)
    return np.sqrt(np.maximum(raw, 0)) if metric == "l2" else raw - (metric == "dot")


def _error_bound(query: np.ndarray, rows: np.ndarray, metric: str, dtype: str) -> float:
    """How far Lance's distances may be off: what rounding does to the query, and some units of float32."""
    rounded = _scaled_query(query, metric)
    length = float(np.linalg.norm(rounded.astype(np.float64)))
    lost = float(np.linalg.norm(rounded - rounded.astype(dtype).astype(np.float64))) + 1e-6 * length
    if metric == "cosine":
        return lost / length + 1e-6
    return lost if metric == "l2" else lost * float(np.linalg.norm(rows.astype(np.float64), axis=1).max())


def _scaled_query(query: np.ndarray, metric: str) -> np.ndarray:
    """A query that loses as little as can be when Lance rounds it to float16: by cosine its length is free."""
    query = query.astype(np.float32)
    if metric != "cosine":
        return query
    return np.ldexp(query, 10 - np.frexp(np.abs(query).max())[1])


def _sort_by(found: pa.Table, by: np.ndarray, k: int) -> pa.Table:
    order = np.argsort(by, kind="stable")[:k]
    keys = {c: found[c].take(pa.array(order)) for c in found.column_names if c not in ("vector", "_distance")}
    return pa.table({**keys, "distance": by[order]})


def _all_rows(table: VectorTable, columns: list[str], prefilter: str) -> pa.Table:
    scan = table.lance.search().select([*columns, "vector"]).limit(table.count)
    return (scan.where(prefilter) if prefilter else scan).to_arrow()


def scan(table: VectorTable) -> Iterator[np.ndarray]:
    """All vectors, some thousands at a time."""
    for batch in table.lance.search().select(["vector"]).limit(table.count).to_batches(8192):
        yield to_array(batch["vector"])


def to_array(column: Any) -> np.ndarray:
    """A column of vectors as (n, width)."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    width = column.type.list_size
    parts = [c.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for c in chunks if len(c)]
    return np.concatenate(parts) if parts else np.empty((0, width), np.float32)
