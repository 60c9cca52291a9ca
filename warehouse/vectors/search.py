"""Find the nearest vectors: exactly or through the index, under any filter, over layers and runs.

In: a query vector, a site and layers, and a filter. Out: an Arrow table of keys and distances, with `k` rows wherever `k` exist: a
search through the index that finds fewer is repeated exactly. `Warehouse.nearest` and `token_query` call it.

The parts of a filter (`where`) are evaluated in two places. Conditions on keys alone (`run_id = 'wt2' AND pos > 3`) go to Lance, which
searches under them. All others are evaluated over token_diagnostics. If few tokens are left, their vectors are read from the shards
and compared one by one. If many are left, the search fetches more than `k` rows and drops those that the filter excludes, until `k`
are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from warehouse.activations import filters
from warehouse.activations.filters import Filter
from warehouse.activations.gather import KEYS, RowLocations, check_keys, filter_errors
from warehouse.errors import NotFoundError, UsageError, first_line
from warehouse.schema.quoting import sql_texts
from warehouse.storage.objects import AnyPath
from warehouse.storage.vector_info import METRICS
from warehouse.vectors import ann_index, distances
from warehouse.vectors.model_folders import folder_named
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import VectorTableCache

if TYPE_CHECKING:
    from warehouse.catalog.catalog import Catalog

MAX_COMPARED = 20_000
"""Up to this many tokens that a filter leaves are compared one by one."""
_PROBES_UNDER_FILTER = 4
"""Factor by which more partitions are searched under a filter, since each then has fewer rows that count."""
_MAX_FETCHED = 100_000
"""Most rows that a search fetches to have k left after a filter; if that is too few, all tokens are compared."""


def nearest(
    catalog: Catalog,
    tables: VectorTableCache,
    vector: Any,
    *,
    site: str,
    layer: int | Sequence[int] | None,
    model: str | None,
    k: int,
    where: str | None,
    metric: str,
    head: int | None,
    side: str | None,
    exact: bool,
) -> pa.Table:
    """Return what `Warehouse.nearest` returns, as an Arrow table; the arguments are the same."""
    if metric not in METRICS:
        raise NotFoundError("metric", metric, METRICS)
    if not 1 <= k < 1 << 31:
        raise UsageError(f"k = {k}: give at least 1, and at most 2,147,483,647.")
    chosen = choose_tables(tables, catalog.root, site, layer, model, side)
    near = [nearest_in_table(catalog, t, vector, k, where, metric, head, exact) for t in chosen]
    merged = near[0] if len(near) == 1 else pa.concat_tables(near).sort_by("distance")
    return merged.slice(0, k)


def nearest_in_table(
    catalog: Catalog,
    table: VectorTable,
    vector: Any,
    k: int,
    where: str | None,
    metric: str,
    head: int | None,
    exact: bool,
) -> pa.Table:
    """Return the nearest rows of one table, as `nearest` does."""
    return _search_table(
        catalog, table, _check_query(table, vector, metric), k, filters.split_filter(where), metric, head, exact
    )


def choose_tables(
    tables: VectorTableCache,
    root: AnyPath,
    site: str,
    layer: int | Sequence[int] | None,
    model: str | None,
    side: str | None,
) -> list[VectorTable]:
    """Choose the tables to search.

    Args:
        tables: The warehouse's tables.
        root: The warehouse.
        site: Name of the site; `enc.` before it means the encoder's side.
        layer: A layer, several, or None for all.
        model: Name of the model; None where the tables are of one model.
        side: `dec` or `enc`; None where the tables are of one side.

    Returns:
        Tables of one model and one side.

    Raises:
        NotFoundError: Where no table is of this site, naming those that exist.
        UsageError: Where a layer has no table, or tables of several models or sides fit. The error of a damaged table where that
            may be the one.
    """
    known = tables.readable()
    damaged = list(tables.damaged.values())
    if not known and damaged:
        raise damaged[0]
    if not known:
        raise UsageError(
            "There are no vector tables yet. Make one: traces index add RUN --site resid.post_mlp --layers mid"
        )
    if site.startswith("enc."):
        site, side = site.removeprefix("enc."), "enc"
    if model is not None:
        folder = folder_named(root, model)
        known = [t for t in known if t.info.model == folder]
    of_site = [t for t in known if t.info.site == site and side in (None, t.info.side)]
    if not of_site and damaged:
        raise damaged[0]
    if not of_site:
        raise NotFoundError("vector table of site", site, dict.fromkeys(t.info.name for t in known))
    if layer is None:
        return _check_one_model(site, of_site)
    wanted = list(layer) if isinstance(layer, Iterable) else [int(layer)]
    if not wanted:
        raise UsageError("No layer is given.")
    layers = {t.info.layer for t in of_site}
    for i in wanted:
        if i not in layers and damaged:
            raise damaged[0]
        if i not in layers:
            known_layers = ", ".join(str(n) for n in sorted(n for n in layers if n is not None)) or "no layers"
            raise UsageError(
                f"No vector table of {site} in layer {i}; there is: {known_layers}. Make one: "
                f"traces index add RUN --site {site} --layers {i}"
            )
    return _check_one_model(site, [t for t in of_site if t.info.layer in wanted])


def _check_one_model(site: str, tables: list[VectorTable]) -> list[VectorTable]:
    """Return the tables, after checking that their distances can be compared: they are of one model and one side."""
    for what, values in (("model", {t.info.model for t in tables}), ("side", {t.info.side for t in tables})):
        if len(values) > 1:
            raise UsageError(
                f"{site} has vector tables of more than one {what}: {', '.join(sorted(values))}. Say which."
            )
    return tables


def _check_query(table: VectorTable, vector: Any, metric: str) -> np.ndarray:
    """Return the query as the table stores vectors, float64; raises UsageError for one that cannot have neighbours."""
    try:
        array = np.asarray(vector)
    except (TypeError, RuntimeError, ValueError) as e:  # torch raises them for bfloat16, gradients and other devices
        raise UsageError(f"The query is not an array of numbers: {first_line(e)}") from None
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise UsageError(f"A query is a vector of numbers, not {array.dtype}.")
    if array.ndim != 1 or len(array) != table.info.width:
        raise UsageError(
            f"The query has shape {array.shape}; {table.info.sql_name} has vectors of width {table.info.width}."
        )
    query = array.astype(np.float64)
    if not np.isfinite(query).all():
        raise UsageError("The query has values that are not finite (NaN or infinity).")
    centre = table.centre
    if centre is not None and metric != "dot":
        query = query - centre
    largest = float(np.abs(query).max())
    if metric == "cosine" and largest == 0:
        raise UsageError("The query is zero: it has no direction to compare by cosine. Use another metric.")
    if metric != "cosine" and table.info.dtype == "float16" and largest >= 65520:
        raise UsageError(f"The query has a value of {largest:.0f}, beyond float16, which this table holds.")
    return query


# -- one table ---------------------------------------------------------------------------------------------------------


def _search_table(
    catalog: Catalog,
    table: VectorTable,
    query: np.ndarray,
    k: int,
    where: filters.Filter,
    metric: str,
    head: int | None,
    exact: bool,
) -> pa.Table:
    info = table.info
    own_head = None if head is None else info.stored_head(head)
    prefilter = [where.keys] if where.keys else []
    if own_head is not None:
        prefilter.append(f"{info.head_column} = {own_head}")
    live = table.live_runs()
    if len(live) < len(info.runs) or table.has_unlisted_rows:
        prefilter.append(f"run_id IN {sql_texts(live)}")
    search = _Search(catalog, table, query, k, metric, " AND ".join(prefilter), own_head, exact)
    return search.answer(filtered_tokens(catalog, table, where, live) if where.views else None)


@dataclass
class _Search:
    """A search of one table."""

    catalog: Catalog
    table: VectorTable
    query: np.ndarray
    k: int
    metric: str
    prefilter: str
    """SQL condition that Lance searches under."""
    head: int | None
    """Value of the head column; None for all heads."""
    exact: bool

    def answer(self, tokens: pa.Table | None) -> pa.Table:
        """Return the nearest rows: of all tokens, or of those that a filter leaves."""
        if tokens is None:
            return self._with_keys(*self._fetch(self.k))
        if len(tokens) <= MAX_COMPARED or self.exact:
            return self._compare_all(tokens)
        fetch = min(int(self.k * 1.5 * max(self.table.info.rows // len(tokens), 1)) + self.k, _MAX_FETCHED)
        while True:
            rows, how = self._fetch(fetch)
            kept = rows.join(tokens, list(KEYS), join_type="left semi").sort_by("distance")
            if len(kept) >= self.k:
                return self._with_keys(kept.slice(0, self.k), how)
            if len(rows) < fetch or fetch >= _MAX_FETCHED:
                return self._compare_all(tokens)
            fetch = min(fetch * 4, _MAX_FETCHED)

    def _fetch(self, k: int) -> tuple[pa.Table, str]:
        """Return `k` rows, or all that exist, and how they were found; an index that finds fewer is not trusted."""
        params = self._search_params(k)
        if params is not None:
            rows = self._nearest(k, params)
            if len(rows) >= k:
                assert self.table.info.index is not None
                return rows, self.table.info.index.kind
        return self._nearest(k, None), "exact"

    def _search_params(self, k: int) -> distances.SearchParams | None:
        """Return how to search the index; None where it cannot be used."""
        index = ann_index.trusted(self.table.info)
        if self.exact or index is None or index.metric != self.metric:
            return None
        more = max(1.0, (k / 10) ** 0.5) * (_PROBES_UNDER_FILTER if self.prefilter else 1)
        return (int(index.nprobes * more), index.refine)

    def _nearest(self, k: int, params: distances.SearchParams | None) -> pa.Table:
        column = self.table.info.head_column
        columns = (*KEYS, column) if column else KEYS
        return distances.nearest_rows(self.table, self.query, self.metric, k, params, columns, self.prefilter)

    def _with_keys(self, rows: pa.Table, how: str) -> pa.Table:
        """Complete rows with every key, and with how they were found."""
        info, n = self.table.info, len(rows)
        null = pa.nulls(n, pa.int64())
        distances = rows["distance"].to_numpy()
        centre = self.table.centre
        if self.metric == "dot" and centre is not None:  # the stored vectors are less the centre
            distances = distances - self.query @ centre.astype(np.float64)
        columns = {
            "distance": pa.array(distances, pa.float32()),
            **{name: rows[name] for name in KEYS},
            "side": pa.repeat(info.side, n),
            "model": pa.repeat(info.model, n),
            "site": pa.repeat(info.site, n),
            "layer": null if info.layer is None else pa.repeat(pa.scalar(info.layer, pa.int64()), n),
            **{name: rows[name] if info.head_column == name else null for name in ("head", "kv_head")},
            "search": pa.repeat(how, n),
        }
        return pa.table(columns)

    def _compare_all(self, tokens: pa.Table) -> pa.Table:
        """Compare every token that the filter leaves, by the vectors in the shards."""
        info = self.table.info
        key = self.table.key
        all_heads: list[int | None] = [None] if info.heads is None else list(range(info.heads))
        searched = all_heads if self.head is None else [self.head]
        best = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]
        centre = self.table.centre
        locations = RowLocations.for_tokens(self.catalog, tokens, key)
        for numbers, rows in locations.gather_in_pieces(key, 8192):
            if centre is not None:
                rows = (rows.astype(np.float32) - centre).astype(info.dtype)  # as the table stores them
            for head in searched:
                d = distances.distances(self.query[None], rows if head is None else rows[:, head], self.metric)[0]
                at = np.argsort(d, kind="stable")[: self.k]
                best.append((d[at], numbers[at], np.full(len(at), -1 if head is None else head)))
        d, at, heads = (np.concatenate(x) for x in zip(*best, strict=True))
        order = np.argsort(d, kind="stable")[: self.k]
        nearest = tokens.take(pa.array(at[order]))
        if info.head_column:
            nearest = nearest.append_column(info.head_column, pa.array(heads[order], pa.int64()))
        return self._with_keys(nearest.append_column("distance", pa.array(d[order])), "exact")


def filtered_tokens(catalog: Catalog, table: VectorTable, where: Filter, runs: Sequence[str]) -> pa.Table:
    """Return the keys of the tokens that a filter leaves.

    Args:
        catalog: The warehouse.
        table: The table that is searched.
        where: The filter.
        runs: Runs of the table.

    Returns:
        The columns `KEYS`, a row per token; UsageError is raised for a filter that fails.
    """
    conditions = [f"run_id IN {sql_texts(runs)}", f"side = '{table.info.side}'"]
    conditions += [f"({part})" for part in (where.keys, where.views) if part]
    layer = "NULL" if table.info.layer is None else str(table.info.layer)
    with filter_errors():
        answer = catalog.sql(
            f"SELECT {', '.join(KEYS)} FROM (SELECT *, {layer}::BIGINT AS layer FROM token_diagnostics) "
            f"WHERE {' AND '.join(conditions)}"
        ).to_arrow_table()
    return check_keys(answer)
