"""Index vector tables, and measure how much of the exact answer an index finds.

In: a `VectorTable` whose lock the caller holds. Out: its Lance indexes, and in its info what searches need to know of them.

Residual vectors are very unevenly spread, so recall is measured: on rows of the table, against exact search. Searches use the
cheapest search parameters that reach the recall aimed for. An index that finds too little is not used at all.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from warehouse.storage.vector_info import METRICS, IndexInfo, TableInfo
from warehouse.vectors import distances
from warehouse.vectors.table import VectorTable

MIN_ROWS = 50_000
"""Below this number of rows, comparing with every row is fast."""
MIN_RECALL = 0.95
"""An index with a lower recall is not used."""
_TARGET_RECALL = 0.96
"""Search parameters that reach this recall are taken without trying more expensive ones."""

_SAMPLE = 100
"""Queries that recall is measured on."""
_K = 10
_TIE = 1e-6
"""Relative difference up to which two distances, both computed in float64, count as equal."""
_PROBES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 160)
_REFINES = (1, 2, 5, 20)
"""Search parameters that are tried, cheapest first."""
_GROWTH = 4
"""An index is trained again when its table has this many times the rows that it was trained on, or that part of them."""
_STALE = 0.1
"""Part of the rows that may be outside the index, which searches compare one by one, or be deleted since recall was measured."""

_SCALARS = {"run_id": "bitmap", "head": "bitmap", "kv_head": "bitmap", "example_id": "btree", "pos": "btree"}


def maintain_index(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> bool:
    """Bring a table's indexes up to date with its rows.

    Args:
        table: The table, locked by the caller.
        note: Called with what is being done.

    Returns:
        Whether there was anything to do.
    """
    info = table.info
    kind = info.kind if info.kind != "auto" else ("ivf_sq" if info.rows >= MIN_ROWS else "none")
    if kind == "none":
        if info.index is not None:
            _drop(table)
        return False
    index = info.index
    retrain = index is None or index.kind != kind or index.metric != info.metric
    retrain = retrain or index is None or _index_is_missing(table)
    retrain = retrain or index is None or not index.trained_rows / _GROWTH < info.rows < _GROWTH * index.trained_rows
    if retrain:
        _train(table, kind, note)
    elif _count_unindexed(table) > _STALE * info.rows:
        note(f"{info.sql_name}: adding new rows to its index")
        table.lance.optimize(cleanup_older_than=timedelta(hours=1))
    else:
        return False
    measure(table, note)
    if not retrain and table.info.index is not None and table.info.index.recall < MIN_RECALL:
        _train(table, kind, note)
        measure(table, note)
    return True


def optimize(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Merge small files, take all rows into the indexes, free the space of deleted rows, and measure recall again.

    Args:
        table: The table, locked by the caller.
        note: Called with what is being done.
    """
    table.compact()
    if maintain_index(table, note):
        return
    if table.info.index is not None:
        measure(table, note)
    else:
        table.write_info()  # tells readers to open the table again


def _index_is_missing(table: VectorTable) -> bool:
    """Tell whether Lance has no index on the vectors, whatever the info says."""
    return _vector_index(table) is None


def _vector_index(table: VectorTable) -> str | None:
    return next((i.name for i in table.lance.list_indices() if i.columns == ["vector"]), None)


def _count_unindexed(table: VectorTable) -> int:
    name = _vector_index(table)
    stats = table.lance.index_stats(name) if name else None
    return stats.num_unindexed_rows if stats else table.info.rows


def _train(table: VectorTable, kind: str, note: Callable[[str], None]) -> None:
    from lancedb.index import Bitmap, BTree, IvfPq, IvfSq

    info, lance = table.info, table.lance
    note(f"{info.sql_name}: indexing {info.rows:,} rows ({kind}, {info.metric})")
    info.index = None
    table.write_info()  # a process that is killed from here on leaves a table that is searched exactly
    for column, scalar in _SCALARS.items():
        if column in ("head", "kv_head") and column != info.head_column:
            continue
        lance.create_index(column, config=Bitmap() if scalar == "bitmap" else BTree(), replace=True)
    config: Any
    ivf: dict[str, Any] = ivf_options(info.rows)
    if kind == "ivf_sq":
        config = IvfSq(distance_type=info.metric, **ivf)
    else:
        config = IvfPq(distance_type=info.metric, num_sub_vectors=_count_sub_vectors(info.width), **ivf)
    lance.create_index("vector", config=config, replace=True)
    info.index = IndexInfo(kind=kind, metric=info.metric, trained_rows=info.rows)  # type: ignore[arg-type]


def ivf_options(rows: int) -> dict[str, int]:
    """Return options for partitions of 2,048 rows, and of more from a million rows on: half as many partitions as the root of the rows.

    Measured on up to a million real residuals: with larger partitions a query that finds as much compares with more rows and takes
    longer, and training less. Training costs partitions times rows, which would grow with the square of the rows.
    """
    return {"num_partitions": max(1, min(rows // 2048, round(rows**0.5 / 2))), "sample_rate": 64, "max_iterations": 20}


def _count_sub_vectors(width: int) -> int:
    """Return the number of sub-vectors: of 8 values each where the width allows, else of 4, 2 or 1."""
    return next(width // n for n in (8, 4, 2, 1) if width % n == 0)


def _drop(table: VectorTable) -> None:
    if name := _vector_index(table):
        table.lance.drop_index(name)
    table.info.index = None
    table.write_info()


# -- how much it finds -------------------------------------------------------------------------------------------------


def measure(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Choose the cheapest search parameters that find enough of the 10 nearest rows of a sample, and write their recall to the info.

    Args:
        table: An indexed table, locked by the caller.
        note: Called with the recall.
    """
    info = table.info
    assert info.index is not None
    queries = _sample_vectors(table)
    exact = nearest_distances(table, queries, info.index.metric, _K + 1)
    metric = info.index.metric

    @functools.cache
    def recall(refine: int, nprobes: int) -> float:
        return _recall(table, queries, exact, metric, (nprobes, refine))

    for refine in _REFINES:
        # More probes find no less, so that the first number that is enough is found by bisection; the last where none is.
        nprobes = _PROBES[bisect_left(_PROBES[:-1], _TARGET_RECALL, key=functools.partial(recall, refine))]
        found = recall(refine, nprobes)
        if found >= _TARGET_RECALL:
            break
    info.index.recall, info.index.nprobes, info.index.refine = round(found, 4), nprobes, refine
    info.index.measured_rows = info.rows
    table.write_info()
    used = "" if found >= MIN_RECALL else ": too little, so searches are exact"
    note(f"{info.sql_name}: recall@{_K} {found:.3f} by {metric}{used}")


def _sample_vectors(table: VectorTable) -> np.ndarray:
    """Draw some of the table's vectors, as they are stored."""
    n = table.lance.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(n, min(_SAMPLE, n), replace=False))
    return distances.to_array(table.lance.take_offsets(chosen.tolist()).select(["vector"]).to_arrow()["vector"])


def _recall(
    table: VectorTable, queries: np.ndarray, exact: np.ndarray, metric: str, params: distances.SearchParams
) -> float:
    """Return recall@10: the part of the 10 nearest rows that is found, the query's own row apart, by distance, so that ties count."""
    hits = 0
    for query, limit in zip(queries, exact[:, -1], strict=True):
        near = distances.nearest_rows(table, query, metric, exact.shape[1], params)["distance"].to_numpy()
        hits += max(0, int((near <= limit + _TIE * max(abs(limit), 1e-6)).sum()) - 1)
    return hits / max(exact.size - len(exact), 1)


def nearest_distances(table: VectorTable, queries: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Return the distances of the `k` rows nearest to each query, by comparing with all rows: (n, k), ascending."""
    best = np.full((len(queries), 0), np.inf)
    for rows in distances.scan(table):
        if best.shape[1] == k:
            rows = rows[distances.may_be_nearer(queries, rows, metric, best.max(axis=1))]
        candidates = np.concatenate([best, distances.distances(queries, rows, metric)], axis=1)
        best = np.partition(candidates, k - 1, axis=1)[:, :k] if candidates.shape[1] > k else candidates
    return np.sort(best, axis=1)


def trusted(info: TableInfo) -> IndexInfo | None:
    """Return a table's index if it finds enough, and if most of the rows that its recall was measured on are still there."""
    index = info.index
    if index is None or index.recall < MIN_RECALL or info.rows < (1 - _STALE) * index.measured_rows:
        return None
    return index


def recall_by_metric(table: VectorTable) -> dict[str, tuple[float, str]]:
    """Return for each metric which part of the 10 nearest rows searches find, and how they search."""
    recalls: dict[str, tuple[float, str]] = {}
    for metric in METRICS:
        index = trusted(table.info)
        if index is not None and index.metric == metric:
            recalls[metric] = (index.recall, index.kind)
        else:
            recalls[metric] = (1.0, "exact")
    return recalls
