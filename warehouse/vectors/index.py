"""When a table is indexed, how, and how much of the exact answer its index finds.

Residual vectors are wildly uneven: what an index finds of them is measured, on rows of the table against exact search, and
the cheapest way of asking it that finds enough is what searches use. An index that finds too little is not used at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.vectors.tables import METRICS, IndexInfo, VectorTable

if TYPE_CHECKING:
    from lancedb.query import LanceVectorQueryBuilder

MIN_ROWS = 50_000
"""Below this, comparing with every row is fast."""
LEAST_RECALL = 0.95
_AIM = 0.97
"""What a way of asking has to find to be taken before more expensive ones are tried."""

_SAMPLE = 100
_K = 10
_TIE = {"cosine": 1e-3, "l2": 1e-3, "dot": 1e-5}
"""Relative: so far apart are distances that count as the same, two sums of float16 products being what they are."""
_WAYS = [(nprobes, refine) for nprobes in (5, 10, 20, 40, 80, 160) for refine in (2, 5, 20)]
"""(nprobes, refine), cheapest first."""
_GROWTH = 4
"""An index is trained anew when its table is so many times what it was."""
_STALE = 0.1
"""Part of the rows that may be outside the index: those are compared one by one."""

_SCALARS = {"run_id": "bitmap", "head": "bitmap", "kv_head": "bitmap", "example_id": "btree", "pos": "btree"}


def upkeep(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Brings a table's indexes up to its rows. Call it under the lock; what it is doing goes to `note`."""
    info = table.info
    kind = info.kind if info.kind != "auto" else ("ivf_sq" if info.rows >= MIN_ROWS else "none")
    if kind == "none":
        if info.index is not None:
            _drop(table)
        return
    found = info.index
    again = found is None or found.kind != kind or found.metric != info.metric
    again = again or found is None or info.rows >= _GROWTH * found.trained_rows or _lost(table)
    if again:
        _train(table, kind, note)
    elif _outside(table) > _STALE * info.rows:
        note(f"{info.sql_name}: adding new rows to its index")
        table.lance.optimize(cleanup_older_than=timedelta(hours=1))
    else:
        return
    measure(table, note)
    if not again and table.info.index is not None and table.info.index.recall < LEAST_RECALL:
        _train(table, kind, note)
        measure(table, note)


def optimize(table: VectorTable, note: Callable[[str], None] = lambda _: None) -> None:
    """Merges small files, takes all rows into the indexes, gives back the space of what was deleted, and measures again."""
    table.tidy()
    upkeep(table, note)
    if table.info.index is not None:
        measure(table, note)
    else:
        table.write_info()  # tells readers to open the table again


def _lost(table: VectorTable) -> bool:
    """Whether Lance knows nothing of the index that we know of."""
    return _vector_index(table) is None


def _vector_index(table: VectorTable) -> str | None:
    return next((i.name for i in table.lance.list_indices() if i.columns == ["vector"]), None)


def _outside(table: VectorTable) -> int:
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
    if kind == "ivf_sq":
        config = IvfSq(distance_type=info.metric)
    else:
        config = IvfPq(distance_type=info.metric, num_sub_vectors=_sub_vectors(info.width))
    lance.create_index("vector", config=config, replace=True)
    info.index = IndexInfo(kind=kind, metric=info.metric, trained_rows=info.rows)  # type: ignore[arg-type]


def _sub_vectors(width: int) -> int:
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
    queries = _sampled(table)
    exact = nearest_distances(table, queries, info.index.metric, _K + 1)
    best = (0.0, *_WAYS[0])
    for nprobes, refine in _WAYS:
        found = _recall(table, queries, exact, info.index.metric, nprobes, refine)
        if found > best[0]:
            best = (found, nprobes, refine)
        if found >= _AIM:
            break
    info.index.recall, info.index.nprobes, info.index.refine = round(best[0], 4), best[1], best[2]
    table.write_info()
    used = "" if best[0] >= LEAST_RECALL else ": too little, so that searches are exact"
    note(f"{info.sql_name}: recall@{_K} {best[0]:.3f} by {info.index.metric}{used}")


def _sampled(table: VectorTable) -> np.ndarray:
    """Some of the table's vectors, as they are stored, float32."""
    n = table.lance.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(n, min(_SAMPLE, n), replace=False))
    return _vectors(table.lance.take_offsets(chosen.tolist()).select(["vector"]).to_arrow()["vector"])


def _recall(
    table: VectorTable, queries: np.ndarray, exact: np.ndarray, metric: str, nprobes: int, refine: int
) -> float:
    """recall@10: the part of the 10 nearest, the row itself apart, that was found; told by distance, so that ties don't matter."""
    hits = 0
    for query, limit in zip(queries, exact[:, -1], strict=True):
        found = asked(table, query, metric, exact.shape[1], (nprobes, refine)).to_arrow()["_distance"].to_numpy()
        hits += max(0, int((found <= limit + _TIE[metric] * abs(limit) + 2e-6).sum()) - 1)
    return hits / max(exact.size - len(exact), 1)


def asked(
    table: VectorTable,
    query: np.ndarray,
    metric: str,
    k: int,
    way: tuple[int, int] | None,
    columns: tuple[str, ...] = (),
) -> LanceVectorQueryBuilder:
    """A query of the Lance table, through its index (`way`: nprobes and refine) or exact."""
    asking: Any = table.lance.search(query, vector_column_name="vector")
    asking = asking.distance_type(metric).limit(k)
    asking = asking.select([*columns, "_distance"])
    if way is None:
        return asking.bypass_vector_index()
    return asking.nprobes(way[0]).refine_factor(way[1])


def nearest_distances(table: VectorTable, queries: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Distances of the `k` nearest rows of each query by comparing with all, (n, k), ascending, as Lance gives them."""
    best = np.full((len(queries), 0), np.inf, np.float32)
    for rows in _scan(table):
        found = np.concatenate([best, distances(queries, rows, metric)], axis=1)
        best = np.partition(found, k - 1, axis=1)[:, :k] if found.shape[1] > k else found
    return np.sort(best, axis=1)


def distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """(queries, rows): 1 - cosine, squared L2, or 1 - dot product, which is how Lance counts them."""
    if metric == "cosine":
        return 1 - _unit(queries) @ _unit(rows).T
    dot = queries @ rows.T
    if metric == "dot":
        return 1 - dot
    squares = (queries**2).sum(1)[:, None] + (rows**2).sum(1)[None, :]
    return np.maximum(squares - 2 * dot, 0)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def _scan(table: VectorTable) -> Iterator[np.ndarray]:
    """All vectors, float32, some thousands at a time."""
    n = table.lance.count_rows()
    for batch in table.lance.search().select(["vector"]).limit(n).to_batches(8192):
        yield _vectors(batch["vector"])


def _vectors(column: Any) -> np.ndarray:
    """A column of vectors as (n, width) float32."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    parts = [c.flatten().to_numpy(zero_copy_only=False).reshape(len(c), -1) for c in chunks if len(c)]
    return np.concatenate(parts).astype(np.float32)


def recalls(table: VectorTable) -> dict[str, tuple[float, str]]:
    """What searches by each metric find of the 10 nearest, and how they search."""
    found: dict[str, tuple[float, str]] = {}
    for metric in METRICS:
        index = table.info.index
        if index is not None and index.metric == metric and index.recall >= LEAST_RECALL:
            found[metric] = (index.recall, index.kind)
        else:
            found[metric] = (1.0, "exact")
    return found
