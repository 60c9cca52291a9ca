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

from warehouse.errors import NotFound, TracesError, UsageError
from warehouse.matrix import FILTER_ERRORS, KEYS, Places, keys_of
from warehouse.quoting import sql_texts
from warehouse.sites import Key
from warehouse.vectors import index
from warehouse.vectors.tables import METRICS, VectorTable, folder_named

if TYPE_CHECKING:
    from pathlib import Path

    from sqlglot import exp

    from warehouse.catalog import Warehouse

FEW = 20_000
"""So many tokens that a filter leaves are compared one by one."""
_TEXT = ("run_id", "example_id")
_NUMBERS = ("seq", "pos", "layer")
_MOST = 100_000
"""Most rows that a search fetches to have k left after a filter; more are compared one by one."""


@dataclass(frozen=True)
class Filter:
    """A `where` in two parts, either of which may be empty."""

    keys: str = ""
    """Of key columns alone, in SQL that Lance understands too."""
    views: str = ""
    """The rest, in DuckDB's."""


def nearest(
    wh: Warehouse,
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
        raise NotFound("metric", metric, METRICS)
    if k < 1:
        raise UsageError(f"k = {k}: ask for at least one.")
    tables = choose(wh.vector_tables, wh.root, site, layer, model, side)
    found = [in_table(wh, t, vector, k, where, metric, head, exact) for t in tables]
    merged = found[0] if len(found) == 1 else pa.concat_tables(found).sort_by("distance")
    return merged.slice(0, k)


def in_table(
    wh: Warehouse,
    table: VectorTable,
    vector: Any,
    k: int,
    where: str | None,
    metric: str,
    head: int | None,
    exact: bool,
) -> pa.Table:
    """The same of one table."""
    return _one(wh, table, _query(table, vector, metric), k, split(where), metric, head, exact)


def choose(
    tables: Iterable[VectorTable],
    root: Path,
    site: str,
    layer: int | Sequence[int] | None,
    model: str | None,
    side: str | None,
) -> list[VectorTable]:
    """The tables that a search is of. Raises UsageError or NotFound with those that are there."""
    known = list(tables)
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
    if not found:
        raise NotFound("vector table of site", site, dict.fromkeys(t.info.name for t in known))
    for what, values in (("model", {t.info.model for t in found}), ("side", {t.info.side for t in found})):
        if len(values) > 1:
            raise UsageError(f"{site} is there for more than one {what}: {', '.join(sorted(values))}. Say which.")
    if layer is None:
        return found
    wanted = [layer] if isinstance(layer, int) else list(layer)
    by_layer = {t.info.layer: t for t in found}
    for i in wanted:
        if i not in by_layer:
            there = ", ".join(str(n) for n in by_layer if n is not None) or "no layers"
            raise UsageError(
                f"No vector table of {site} in layer {i}; there is: {there}. Make one: "
                f"traces index add --run RUN --site {site} --layers {i}"
            )
    if not wanted:
        raise UsageError("No layer is asked for.")
    return [by_layer[i] for i in dict.fromkeys(wanted)]


def _query(table: VectorTable, vector: Any, metric: str) -> np.ndarray:
    """The query as the table's vectors are stored, float32. Raises UsageError for one that has no neighbours."""
    found = np.asarray(vector)
    if found.dtype.kind not in "fiu" and found.dtype.name != "bfloat16":
        raise UsageError(f"A query is a vector of numbers, not {found.dtype}.")
    if found.ndim != 1 or len(found) != table.info.width:
        raise UsageError(
            f"The query has shape {found.shape}; {table.info.sql_name} has vectors of width {table.info.width}."
        )
    query = found.astype(np.float32)
    if not np.isfinite(query).all():
        raise UsageError("The query has values that are not finite (NaN or infinity).")
    centre = table.centre
    if centre is not None and metric != "dot":
        query = query - centre
    largest = float(np.abs(query).max())
    if metric == "cosine":
        if largest == 0:
            raise UsageError("The query is zero: it has no direction to compare by cosine. Use another metric.")
        # Lance rounds a query to the table's dtype: in this range float16 keeps the small values beside a large one.
        query = np.ldexp(query, 10 - np.frexp(largest)[1])
    elif table.info.dtype == "float16" and largest >= 65520:
        raise UsageError(f"The query has a value of {largest:.0f}, beyond float16, which this table holds.")
    return query


# -- filters -----------------------------------------------------------------------------------------------------------


def split(where: str | None) -> Filter:
    """Raises UsageError for what is no SQL expression."""
    if where is None or not where.strip():
        return Filter()
    import sqlglot
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(f"SELECT 1 WHERE {where}", dialect="duckdb")
    except sqlglot.ParseError as e:
        raise UsageError(f"The filter is no SQL: {e.errors[0]['description'] if e.errors else e} ({where})") from None
    clause = tree.args.get("where")
    if not isinstance(tree, exp.Select) or clause is None or set(_given(tree)) - {"expressions", "where"}:
        raise UsageError(f"The filter is more than a condition: {where}")
    parts = list(clause.this.flatten()) if isinstance(clause.this, exp.And) else [clause.this]
    plain = [p for p in parts if _plain(p)]
    rest = [p for p in parts if not _plain(p)]
    return Filter(*(" AND ".join(f"({p.sql(dialect='duckdb')})" for p in group) for group in (plain, rest)))


def _given(tree: exp.Expr) -> list[str]:
    return [name for name, value in tree.args.items() if value]


def _plain(part: exp.Expr) -> bool:
    """Whether a condition compares key columns with values, in words that DuckDB and Lance both know."""
    from sqlglot import exp

    part = part.unnest()
    if isinstance(part, exp.And | exp.Or):
        return _plain(part.left) and _plain(part.right)
    if isinstance(part, exp.In):
        values, column = part.expressions, part.this
        if not values or part.args.get("query") or part.args.get("unnest"):
            return False
    elif isinstance(part, exp.Between):
        values, column = [part.args["low"], part.args["high"]], part.this
    elif isinstance(part, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE):
        values, column = [part.right], part.left
    else:
        return False
    if not isinstance(column, exp.Column) or column.table:
        return False
    name = column.name.lower()
    text = name in _TEXT and not isinstance(part, exp.Between)
    if not text and name not in _NUMBERS:
        return False
    return all(
        isinstance(v, exp.Literal) and (v.is_string if text else not v.is_string and v.name.isdigit()) for v in values
    )


# -- one table ---------------------------------------------------------------------------------------------------------


def _one(
    wh: Warehouse,
    table: VectorTable,
    query: np.ndarray,
    k: int,
    wanted: Filter,
    metric: str,
    head: int | None,
    exact: bool,
) -> pa.Table:
    info = table.info
    own_head = None if head is None else info.own_head(head)
    under = [wanted.keys] if wanted.keys else []
    if own_head is not None:
        under.append(f"{info.head_column} = {own_head}")
    if gone := table.gone():
        under.append(f"run_id NOT IN {sql_texts(gone)}")
    search = _Search(table, query, k, metric, " AND ".join(under), own_head, exact)
    if not wanted.views:
        return search.answer(None)
    return search.answer(_tokens(wh, table, wanted, gone))


def _tokens(wh: Warehouse, table: VectorTable, wanted: Filter, gone: list[str]) -> pa.Table:
    """The tokens that a filter leaves, of the runs in a table: their keys."""
    runs = [r for r in table.info.runs if r not in gone]
    conditions = [f"run_id IN {sql_texts(runs)}", f"side = '{table.info.side}'"]
    conditions += [f"({part})" for part in (wanted.keys, wanted.views) if part]
    layer = "NULL" if table.info.layer is None else str(table.info.layer)
    try:
        answer = wh.sql(
            f"SELECT {', '.join(KEYS)} FROM (SELECT *, {layer}::BIGINT AS layer FROM token_diagnostics) "
            f"WHERE {' AND '.join(conditions)}"
        ).to_arrow_table()
        return keys_of(answer)
    except FILTER_ERRORS as e:
        raise UsageError(
            f"The filter asks for what token_diagnostics does not have: {str(e).splitlines()[0]}"
        ) from None


@dataclass
class _Search:
    table: VectorTable
    query: np.ndarray
    k: int
    metric: str
    under: str
    """What Lance searches under."""
    head: int | None
    """The head column's value that is asked for; None: all."""
    exact: bool

    def answer(self, tokens: pa.Table | None) -> pa.Table:
        if tokens is None:
            return self._finished(*self._asked_until(self.k))
        if len(tokens) == 0:
            return self._finished(self._ask(1, None).slice(0, 0), "exact")
        if len(tokens) <= FEW or self.exact:
            return self._compared(tokens)
        total, fetch = max(self.table.info.rows // (self.table.info.heads or 1), 1), self.k
        fetch = min(int(self.k * 1.5 * total / len(tokens)) + self.k, _MOST)
        while True:
            found, how = self._asked_until(fetch)
            kept = found.join(tokens, list(KEYS), join_type="left semi").sort_by("_distance")
            if len(kept) >= self.k:
                return self._finished(kept.slice(0, self.k), how)
            if len(found) < fetch or fetch >= _MOST:
                return self._compared(tokens)
            fetch = min(fetch * 4, _MOST)

    def _asked_until(self, k: int) -> tuple[pa.Table, str]:
        """`k` rows, or all there are: an index that gives fewer is not trusted."""
        way = self._way(k)
        if way is not None:
            found = self._ask(k, way)
            if len(found) >= k:
                assert self.table.info.index is not None
                return found, self.table.info.index.kind
        return self._ask(k, None), "exact"

    def _way(self, k: int) -> tuple[int, int] | None:
        found = self.table.info.index
        if self.exact or found is None or found.metric != self.metric or found.recall < index.LEAST_RECALL:
            return None
        return (int(found.nprobes * max(1.0, (k / 10) ** 0.5)), found.refine)

    def _ask(self, k: int, way: tuple[int, int] | None) -> pa.Table:
        for again in (False, True):
            try:
                asking = index.asked(self.table, self.query, self.metric, k, way, self._columns())
                if self.under:
                    asking = asking.where(self.under, prefilter=True)
                return self._with_run(asking.to_arrow())
            except (RuntimeError, OSError, ValueError) as e:
                if again:
                    raise TracesError(
                        f"{self.table.info.sql_name} cannot be searched ({(str(e).splitlines() or [''])[0][:300]}). "
                        "traces index rebuild makes it again."
                    ) from e
                self.table.reopen()  # another process has cleaned up what this one had open
        raise AssertionError

    def _columns(self) -> tuple[str, ...]:
        info = self.table.info
        keys = KEYS[1:] if self.table.only_run else KEYS
        return (*keys, *([info.head_column] if info.head_column else []))

    def _with_run(self, found: pa.Table) -> pa.Table:
        if "run_id" in found.column_names:
            return found
        return found.append_column("run_id", pa.repeat(self.table.only_run, len(found)))

    def _finished(self, found: pa.Table, how: str) -> pa.Table:
        """Lance's rows as ours: distances as they are called, and every key."""
        raw = found["_distance"].to_numpy()
        if self.metric == "l2":
            raw = np.sqrt(np.maximum(raw, 0))
        elif self.metric == "dot":  # 1 - q·v, where v is less the centre
            centre = self.table.centre
            raw = raw - 1 - (0 if centre is None else float(self.query.astype(np.float64) @ centre))
        return self._answer(raw, found, how)

    def _answer(self, distances: np.ndarray, keys: pa.Table, how: str) -> pa.Table:
        info, n = self.table.info, len(keys)
        nothing = pa.nulls(n, pa.int64())
        columns = {
            "distance": pa.array(distances, pa.float32()),
            **{name: keys[name] for name in KEYS},
            "side": pa.repeat(info.side, n),
            "model": pa.repeat(info.model, n),
            "site": pa.repeat(info.site, n),
            "layer": nothing if info.layer is None else pa.repeat(pa.scalar(info.layer, pa.int64()), n),
            **{name: keys[name] if info.head_column == name else nothing for name in ("head", "kv_head")},
            "search": pa.repeat(how, n),
        }
        return pa.table(columns)

    def _compared(self, tokens: pa.Table) -> pa.Table:
        """Every token that the filter leaves, compared: their vectors from the shards."""
        info = self.table.info
        key = Key(info.side, info.site, info.layer)
        every: list[int | None] = [None] if info.heads is None else list(range(info.heads))
        own = every if self.head is None else [self.head]
        places = Places.of(self.table.root, tokens, key)
        best: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        centre = self.table.centre
        for start, rows in places.in_pieces(key, 8192):
            wide = rows.astype(np.float32)
            if centre is not None:
                wide = wide - centre
            if info.dtype == "float16":
                wide = wide.astype(np.float16).astype(np.float32)  # as the table has them
            for head in own:
                x = wide if head is None else wide[:, head]
                d = index.distances(self.query[None], x, self.metric)[0]
                at = np.argsort(d, kind="stable")[: self.k]
                best.append((d[at], at + start, np.full(len(at), -1 if head is None else head)))
        d, at, heads = (np.concatenate(x) for x in zip(*best, strict=True))
        order = np.argsort(d, kind="stable")[: self.k]
        found = tokens.take(pa.array(places.order[at[order]]))
        if info.head_column:
            found = found.append_column(info.head_column, pa.array(heads[order], pa.int64()))
        return self._finished(found.append_column("_distance", pa.array(d[order], pa.float32())), "exact")
