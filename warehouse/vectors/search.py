"""The nearest vectors: exactly or through the index, under any filter, over layers and runs.

where       conjuncts that ask for keys alone (run_id = 'wt2' AND pos > 3) go to Lance and are searched under
            the others are asked of token_diagnostics: few tokens are compared one by one, from the shards; with many, the
            search fetches more than k and drops what the filter does not want, until k are left
answer      k rows wherever k exist: a search that comes back short is made again, exactly
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
from warehouse.storage.vector_info import METRICS
from warehouse.vectors import ann_index, distances
from warehouse.vectors.model_folders import folder_named
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import VectorTableCache

if TYPE_CHECKING:
    from pathlib import Path

    from warehouse.catalog.catalog import Catalog

MAX_COMPARED = 20_000
"""So many tokens that a filter leaves are compared one by one."""
_PROBES_UNDER_FILTER = 4
"""So many times more partitions are looked into under a filter, of which each has fewer rows that count."""
_MAX_FETCHED = 100_000
"""Most rows that a search fetches to have k left after a filter; more are compared one by one."""


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
    """What `Warehouse.nearest` returns, as an Arrow table."""
    if metric not in METRICS:
        raise NotFoundError("metric", metric, METRICS)
    if not 1 <= k < 1 << 31:
        raise UsageError(f"k = {k}: ask for at least one, and at most 2,147,483,647.")
    chosen = choose_tables(tables, catalog.root, site, layer, model, side)
    found = [nearest_in_table(catalog, t, vector, k, where, metric, head, exact) for t in chosen]
    merged = found[0] if len(found) == 1 else pa.concat_tables(found).sort_by("distance")
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
    """The same of one table."""
    return _search_table(
        catalog, table, _check_query(table, vector, metric), k, filters.split_filter(where), metric, head, exact
    )


def choose_tables(
    tables: VectorTableCache,
    root: Path,
    site: str,
    layer: int | Sequence[int] | None,
    model: str | None,
    side: str | None,
) -> list[VectorTable]:
    """The tables that a search is of. Raises UsageError or NotFoundError with those that are there, or what is wrong with the one that
    is `damaged`.
    """
    known = tables.readable()
    damaged = list(tables.damaged.values())
    if not known and damaged:
        raise damaged[0]
    if not known:
        raise UsageError(
            "There are no vector tables yet. Make one: traces index add --run RUN --site resid.post_mlp --layers mid"
        )
    if site.startswith("enc."):
        site, side = site.removeprefix("enc."), "enc"
    if model is not None:
        folder = folder_named(root, model)
        known = [t for t in known if t.info.model == folder]
    found = [t for t in known if t.info.site == site and side in (None, t.info.side)]
    if not found and damaged:
        raise damaged[0]
    if not found:
        raise NotFoundError("vector table of site", site, dict.fromkeys(t.info.name for t in known))
    if layer is None:
        return _check_one_model(site, found)
    wanted = list(layer) if isinstance(layer, Iterable) else [int(layer)]
    if not wanted:
        raise UsageError("No layer is asked for.")
    there = {t.info.layer for t in found}
    for i in wanted:
        if i not in there and damaged:
            raise damaged[0]
        if i not in there:
            known_layers = ", ".join(str(n) for n in sorted(n for n in there if n is not None)) or "no layers"
            raise UsageError(
                f"No vector table of {site} in layer {i}; there is: {known_layers}. Make one: "
                f"traces index add --run RUN --site {site} --layers {i}"
            )
    return _check_one_model(site, [t for t in found if t.info.layer in wanted])


def _check_one_model(site: str, tables: list[VectorTable]) -> list[VectorTable]:
    """The same. Raises UsageError where distances would be of different spaces."""
    for what, values in (("model", {t.info.model for t in tables}), ("side", {t.info.side for t in tables})):
        if len(values) > 1:
            raise UsageError(f"{site} is there for more than one {what}: {', '.join(sorted(values))}. Say which.")
    return tables


def _check_query(table: VectorTable, vector: Any, metric: str) -> np.ndarray:
    """The query as the table's vectors are stored, float64. Raises UsageError for one that has no neighbours."""
    try:
        found = np.asarray(vector)
    except (TypeError, RuntimeError, ValueError) as e:  # what torch says of bfloat16, gradients, other devices
        raise UsageError(f"The query is no array of numbers: {first_line(e)}") from None
    if found.dtype.kind not in "fiu" and found.dtype.name != "bfloat16":
        raise UsageError(f"A query is a vector of numbers, not {found.dtype}.")
    if found.ndim != 1 or len(found) != table.info.width:
        raise UsageError(
            f"The query has shape {found.shape}; {table.info.sql_name} has vectors of width {table.info.width}."
        )
    query = found.astype(np.float64)
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
    wanted: filters.Filter,
    metric: str,
    head: int | None,
    exact: bool,
) -> pa.Table:
    info = table.info
    own_head = None if head is None else info.stored_head(head)
    under = [wanted.keys] if wanted.keys else []
    if own_head is not None:
        under.append(f"{info.head_column} = {own_head}")
    live = table.live_runs()
    if len(live) < len(info.runs) or table.has_unlisted_rows:
        under.append(f"run_id IN {sql_texts(live)}")
    search = _Search(catalog, table, query, k, metric, " AND ".join(under), own_head, exact)
    return search.answer(filtered_tokens(catalog, table, wanted, live) if wanted.views else None)


@dataclass
class _Search:
    catalog: Catalog
    table: VectorTable
    query: np.ndarray
    k: int
    metric: str
    prefilter: str
    """What Lance searches under."""
    head: int | None
    """The head column's value that is asked for; None: all."""
    exact: bool

    def answer(self, tokens: pa.Table | None) -> pa.Table:
        if tokens is None:
            return self._with_keys(*self._fetch(self.k))
        if len(tokens) <= MAX_COMPARED or self.exact:
            return self._compare_all(tokens)
        fetch = min(int(self.k * 1.5 * max(self.table.info.rows // len(tokens), 1)) + self.k, _MAX_FETCHED)
        while True:
            found, how = self._fetch(fetch)
            kept = found.join(tokens, list(KEYS), join_type="left semi").sort_by("distance")
            if len(kept) >= self.k:
                return self._with_keys(kept.slice(0, self.k), how)
            if len(found) < fetch or fetch >= _MAX_FETCHED:
                return self._compare_all(tokens)
            fetch = min(fetch * 4, _MAX_FETCHED)

    def _fetch(self, k: int) -> tuple[pa.Table, str]:
        """`k` rows, or all there are: an index that gives fewer is not trusted."""
        way = self._search_params(k)
        if way is not None:
            found = self._nearest(k, way)
            if len(found) >= k:
                assert self.table.info.index is not None
                return found, self.table.info.index.kind
        return self._nearest(k, None), "exact"

    def _search_params(self, k: int) -> distances.SearchParams | None:
        found = self.table.info.index
        if self.exact or found is None or found.metric != self.metric or found.recall < ann_index.MIN_RECALL:
            return None
        more = max(1.0, (k / 10) ** 0.5) * (_PROBES_UNDER_FILTER if self.prefilter else 1)
        return (int(found.nprobes * more), found.refine)

    def _nearest(self, k: int, params: distances.SearchParams | None) -> pa.Table:
        column = self.table.info.head_column
        columns = (*KEYS, column) if column else KEYS
        return distances.nearest_rows(self.table, self.query, self.metric, k, params, columns, self.prefilter)

    def _with_keys(self, found: pa.Table, how: str) -> pa.Table:
        """With every key."""
        info, n = self.table.info, len(found)
        nothing = pa.nulls(n, pa.int64())
        distances = found["distance"].to_numpy()
        centre = self.table.centre
        if self.metric == "dot" and centre is not None:  # what is stored is less the centre
            distances = distances - self.query @ centre.astype(np.float64)
        columns = {
            "distance": pa.array(distances, pa.float32()),
            **{name: found[name] for name in KEYS},
            "side": pa.repeat(info.side, n),
            "model": pa.repeat(info.model, n),
            "site": pa.repeat(info.site, n),
            "layer": nothing if info.layer is None else pa.repeat(pa.scalar(info.layer, pa.int64()), n),
            **{name: found[name] if info.head_column == name else nothing for name in ("head", "kv_head")},
            "search": pa.repeat(how, n),
        }
        return pa.table(columns)

    def _compare_all(self, tokens: pa.Table) -> pa.Table:
        """Every token that the filter leaves, compared: their vectors from the shards."""
        info = self.table.info
        key = self.table.key
        every: list[int | None] = [None] if info.heads is None else list(range(info.heads))
        own = every if self.head is None else [self.head]
        best = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]
        centre = self.table.centre
        places = RowLocations.for_tokens(self.catalog, tokens, key)
        for which, rows in places.gather_in_pieces(key, 8192):
            if centre is not None:
                rows = (rows.astype(np.float32) - centre).astype(info.dtype)  # as the table has them
            for head in own:
                d = distances.distances(self.query[None], rows if head is None else rows[:, head], self.metric)[0]
                at = np.argsort(d, kind="stable")[: self.k]
                best.append((d[at], which[at], np.full(len(at), -1 if head is None else head)))
        d, at, heads = (np.concatenate(x) for x in zip(*best, strict=True))
        order = np.argsort(d, kind="stable")[: self.k]
        found = tokens.take(pa.array(at[order]))
        if info.head_column:
            found = found.append_column(info.head_column, pa.array(heads[order], pa.int64()))
        return self._with_keys(found.append_column("distance", pa.array(d[order])), "exact")


def filtered_tokens(catalog: Catalog, table: VectorTable, wanted: Filter, runs: Sequence[str]) -> pa.Table:
    """The tokens that a filter leaves, of some of the runs in a table: their keys. Raises UsageError for a filter that fails."""
    conditions = [f"run_id IN {sql_texts(runs)}", f"side = '{table.info.side}'"]
    conditions += [f"({part})" for part in (wanted.keys, wanted.views) if part]
    layer = "NULL" if table.info.layer is None else str(table.info.layer)
    with filter_errors():
        answer = catalog.sql(
            f"SELECT {', '.join(KEYS)} FROM (SELECT *, {layer}::BIGINT AS layer FROM token_diagnostics) "
            f"WHERE {' AND '.join(conditions)}"
        ).to_arrow_table()
    return check_keys(answer)
