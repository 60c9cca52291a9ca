"""When a table is indexed, how, and how much of the exact answer its index finds.

Residual vectors are wildly uneven: what an index finds of them is measured, on rows of the table against exact search, and
the cheapest way of asking it that finds enough is what searches use. An index that finds too little is not used at all.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from warehouse.storage.vector_info import METRICS, IndexInfo
from warehouse.vectors import distances
from warehouse.vectors.table import VectorTable

MIN_ROWS = 50_000
"""Below this, comparing with every row is fast."""
MIN_RECALL = 0.95
_TARGET_RECALL = 0.97
"""What a way of asking has to find to be taken before more expensive ones are tried."""

_SAMPLE = 100
_K = 10
_TIE = 1e-6
"""Relative: so far apart are distances that count as the same, both computed in float64."""
_SEARCH_PARAMS = [(nprobes, refine) for nprobes in (5, 10, 20, 40, 80, 160) for refine in (2, 5, 20)]
"""(nprobes, refine), cheapest first."""
_GROWTH = 4
"""An index is trained anew when its table is so many times what it was."""
_STALE = 0.1
"""Part of the rows that may be outside the index: those are compared one by one."""

_SCALARS = {"run_id": "bitmap", "head": "bitmap", "kv_head": "bitmap", "example_id": "btree", "pos": "btree"}


def maintain_index(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> bool:
    """Brings a table's indexes up to its rows; returns whether there was anything to do. Call it under the lock; what it is doing
    goes to `note`.
    """
    info = table.info
    kind = info.kind if info.kind != "auto" else ("ivf_sq" if info.rows >= MIN_ROWS else "none")
    if kind == "none":
        if info.index is not None:
            _drop(table)
        return False
    found = info.index
    again = found is None or found.kind != kind or found.metric != info.metric
    again = again or found is None or info.rows >= _GROWTH * found.trained_rows or _index_is_missing(table)
    if again:
        _train(table, kind, note)
    elif _count_unindexed(table) > _STALE * info.rows:
        note(f"{info.sql_name}: adding new rows to its index")
        table.lance.optimize(cleanup_older_than=timedelta(hours=1))
    else:
        return False
    measure(table, note)
    if not again and table.info.index is not None and table.info.index.recall < MIN_RECALL:
        _train(table, kind, note)
        measure(table, note)
    return True


def optimize(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Merges small files, takes all rows into the indexes, gives back the space of what was deleted, and measures again."""
    table.compact()
    if maintain_index(table, note):
        return
    if table.info.index is not None:
        measure(table, note)
    else:
        table.write_info()  # tells readers to open the table again


def _index_is_missing(table: VectorTable) -> bool:
    """Whether Lance knows nothing of the index that we know of."""
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
    table.write_info()  # a process that dies from here on leaves a table that is searched exactly
    for column, which in _SCALARS.items():
        if column in ("head", "kv_head") and column != info.head_column:
            continue
        lance.create_index(column, config=Bitmap() if which == "bitmap" else BTree(), replace=True)
    config: Any
    ivf: dict[str, Any] = _ivf_options(info.rows)
    if kind == "ivf_sq":
        config = IvfSq(distance_type=info.metric, **ivf)
    else:
        config = IvfPq(distance_type=info.metric, num_sub_vectors=_count_sub_vectors(info.width), **ivf)
    lance.create_index("vector", config=config, replace=True)
    info.index = IndexInfo(kind=kind, metric=info.metric, trained_rows=info.rows)  # type: ignore[arg-type]


def _ivf_options(rows: int) -> dict[str, int]:
    """Of 2,048 rows: at a million, half the time of a query with Lance's own 8,192, for twice the time of training."""
    return {"num_partitions": max(1, rows // 2048), "sample_rate": 64, "max_iterations": 20}


def _count_sub_vectors(width: int) -> int:
    """Of 8 values each, as far as the width goes."""
    return next(width // n for n in (8, 4, 2, 1) if width % n == 0)


def _drop(table: VectorTable) -> None:
    if name := _vector_index(table):
        table.lance.drop_index(name)
    table.info.index = None
    table.write_info()


# -- how much it finds -------------------------------------------------------------------------------------------------


def measure(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Finds the cheapest way of asking the index that finds enough of the 10 nearest of a sample, and notes its recall."""
    info = table.info
    assert info.index is not None
    queries = _sample_vectors(table)
    exact = nearest_distances(table, queries, info.index.metric, _K + 1)
    best = (0.0, *_SEARCH_PARAMS[0])
    for nprobes, refine in _SEARCH_PARAMS:
        found = _recall(table, queries, exact, info.index.metric, (nprobes, refine))
        if found > best[0]:
            best = (found, nprobes, refine)
        if found >= _TARGET_RECALL:
            break
    info.index.recall, info.index.nprobes, info.index.refine = round(best[0], 4), best[1], best[2]
    table.write_info()
    used = "" if best[0] >= MIN_RECALL else ": too little, so that searches are exact"
    note(f"{info.sql_name}: recall@{_K} {best[0]:.3f} by {info.index.metric}{used}")


def _sample_vectors(table: VectorTable) -> np.ndarray:
    """Some of the table's vectors, as they are stored."""
    n = table.lance.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(n, min(_SAMPLE, n), replace=False))
    return distances.to_array(table.lance.take_offsets(chosen.tolist()).select(["vector"]).to_arrow()["vector"])


def _recall(
    table: VectorTable, queries: np.ndarray, exact: np.ndarray, metric: str, params: distances.SearchParams
) -> float:
    """recall@10: the part of the 10 nearest, the row itself apart, that was found; told by distance, so that ties don't matter."""
    hits = 0
    for query, limit in zip(queries, exact[:, -1], strict=True):
        found = distances.nearest_rows(table, query, metric, exact.shape[1], params)["distance"].to_numpy()
        hits += max(0, int((found <= limit + _TIE * max(abs(limit), 1e-6)).sum()) - 1)
    return hits / max(exact.size - len(exact), 1)


def nearest_distances(table: VectorTable, queries: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Distances of the `k` nearest rows of each query by comparing with all, (n, k), ascending."""
    best = np.full((len(queries), 0), np.inf)
    for rows in distances.scan(table):
        found = np.concatenate([best, distances.distances(queries, rows, metric)], axis=1)
        best = np.partition(found, k - 1, axis=1)[:, :k] if found.shape[1] > k else found
    return np.sort(best, axis=1)


def recall_by_metric(table: VectorTable) -> dict[str, tuple[float, str]]:
    """What searches by each metric find of the 10 nearest, and how they search."""
    found: dict[str, tuple[float, str]] = {}
    for metric in METRICS:
        index = table.info.index
        if index is not None and index.metric == metric and index.recall >= MIN_RECALL:
            found[metric] = (index.recall, index.kind)
        else:
            found[metric] = (1.0, "exact")
    return found
