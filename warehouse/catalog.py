"""Warehouse: all runs as one database. Makes `warehouse.duckdb`, and opens it read-only.

The file holds views and nothing else: one over each table's Parquet files (from `warehouse.schema`), `runs` over the
manifests, and those in `sql/views/`. It is made under another name and moved into place, so that a reader sees the old one
or the new one; nobody ever holds it open for writing, since DuckDB would then lock every reader out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import duckdb
import filelock

from warehouse import layout
from warehouse.errors import NotFound, TracesError, UsageError
from warehouse.quoting import sql_path, sql_text
from warehouse.schema import TABLES, Column, Table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, DTypeLike

    from warehouse.batches import Batches
    from warehouse.store import TraceStore
    from warehouse.vectors.tables import Opened, VectorTable

_STATE_VIEW = "catalog_state"

_MANIFEST_COLUMNS = {
    "run_id": "run_id",
    "kind": "kind",
    "parents": "parents",
    "model": "model.name",
    "revision": "model.revision",
    "weights_hash": "model.weights_hash",
    "body_hash": "model.body_hash",
    "architecture": "model.architecture",
    "untrained": "model.untrained",
    "dtype": "model.dtype",
    "store_dtype": "store_dtype",
    "n_layers": "model.n_layers",
    "dataset": "data.dataset",
    "config": "data.config",
    "split": "data.split",
    "n_examples": "counts.examples",
    "n_sequences": "counts.sequences",
    "n_tokens": "counts.tokens",
    "n_predictions": "counts.predictions",
    "mean_loss": "mean_loss",
    "perplexity": "perplexity",
    "tables": "counts.rows",
    "bytes": "bytes",
    "created_at": "created_at",
    "seconds": "seconds",
    "schema_version": "schema_version",
}
"""Where the manifest keeps each column of `runs`."""

_FROM_JSON = {
    "body_hash": "coalesce({group} ->> '$.{leaf}', {group} ->> '$.weights_hash')",
    "untrained": "coalesce(({group} -> '$.{leaf}')::VARCHAR[], [])",
    "tables": "list_sort(list_filter(json_keys({group} -> '$.{leaf}'), "
    "lambda name: ({group} -> '$.{leaf}' ->> name)::BIGINT > 0))",
}
"""How a column of `runs` is read that is no plain value there; `untrained` is not in manifests before schema version 3, `body_hash` not before 4."""


class Warehouse:
    """All runs below a root. `sql` asks, `run` opens one run's tensors; closes with `close` or as a context manager."""

    def __init__(self, root: str | Path | None = None) -> None:
        """Opens the warehouse at `root` (default: `$TRACES_HOME`, else `./runs`), making its views where they are missing
        or out of date. Raises UsageError where there is no such folder."""
        self.root = layout.find_root(root)
        self._vectors: Opened | None = None
        self._opened: dict[str, tuple[tuple[int, int], TraceStore]] = {}
        if not self.root.is_dir():
            raise UsageError(
                f"There is no warehouse at {self.root}. Capture something (traces capture next-token --help), "
                "or name another folder: --warehouse DIR or $TRACES_HOME."
            )
        try:
            if _is_stale(self.root):
                refresh(self.root)
        except OSError:  # somebody else's folder, which we may only read: the views are made in memory
            self._connection = duckdb.connect()
            _create_views(self._connection, self.root)
            return
        self._connection = _open(self.root / layout.CATALOG)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        return self._connection

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer as a DuckDB relation: `.df()`, `.arrow()`, `.pl()`, `.fetchall()`. Raises duckdb.Error as DuckDB does."""
        return self._connection.sql(query)

    def run(self, run_id: str) -> TraceStore:
        """One run's tensors and tables. Raises NotFound with the nearest names."""
        from warehouse.store import TraceStore

        return TraceStore(find_run(self.root, run_id))

    def opened(self, run_id: str) -> TraceStore:
        """The same as `run`, kept open from one call to the next for as long as the run is what it was."""
        from warehouse.store import TraceStore

        folder = find_run(self.root, run_id)
        stat = (folder / layout.MANIFEST).stat()
        state = (stat.st_mtime_ns, stat.st_ino)
        if run_id not in self._opened or self._opened[run_id][0] != state:
            self._opened[run_id] = (state, TraceStore(folder))
        return self._opened[run_id][1]

    # -- vectors ---------------------------------------------------------------------------------------------------

    @property
    def vector_tables(self) -> list[VectorTable]:
        """The vector tables as they are now."""
        from warehouse.vectors.tables import Opened

        if self._vectors is None:
            self._vectors = Opened(self.root)
        return self._vectors.all()

    @property
    def damaged_vectors(self) -> list[TracesError]:
        """What is wrong with the vector tables that could not be read when `vector_tables` was asked for."""
        return [] if self._vectors is None else self._vectors.damaged

    def load_vectors(self) -> None:
        """Makes the views `vectors_…` and the macros `nearest_…` known to `sql`, as `traces shell` does. Half a second."""
        from warehouse.vectors.fill import settle
        from warehouse.vectors.shell import statements

        with contextlib.suppress(OSError):  # a folder that we may only read
            settle(self.root)
        for statement in statements(self.vector_tables):
            self._connection.execute(statement)

    def nearest(
        self,
        vector: ArrayLike,
        *,
        site: str = "resid.post_mlp",
        layer: int | Sequence[int] | None = None,
        model: str | None = None,
        k: int = 10,
        where: str | None = None,
        metric: str = "cosine",
        head: int | None = None,
        side: str | None = None,
        exact: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        """The `k` tokens whose vectors are nearest to `vector` (D,), best first, each with every key: of one layer, of
        several, or of all that have a vector table (None); of one query head, or of all.

        `where` is a condition on the columns of `token_diagnostics`, and on `layer`. `distance` is 1 - cosine, the Euclidean
        distance (`l2`), or minus the dot product (`dot`); `search` says whether an index found the row, or comparing with all
        (`exact`, which an index that is not good enough is left for, and which can be asked for). There are `k` rows wherever
        `k` exist. In a table that is centred, cosine is that of what is left when its median is subtracted from both.

        Raises UsageError for a vector that does not fit or is not finite, a layer without a table (with those there), and a
        filter with an error.
        """
        from warehouse.vectors import search

        found = search.nearest(
            self, vector, site=site, layer=layer, model=model, k=k, where=where, metric=metric, head=head, side=side,
            exact=exact,
        )  # fmt: skip
        return self._connection.from_arrow(found)

    def matrix(
        self,
        query: str,
        *,
        site: str = "resid.post_mlp",
        layer: int | None = None,
        head: int | None = None,
        side: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """The vectors of the tokens that a query picks, (n, D), or (n, heads, d_head) of a site with heads and none asked
        for; and the query's answer, whose rows they belong to. It must SELECT run_id, example_id, seq and pos.

        Read from the runs' shards, in their dtype or the one asked for (float32 where shards differ). Every site with a vector
        a token is there, derived ones too. Raises UsageError for a query without those columns, for a token that is not
        there, and for a site that its run did not store.
        """
        from warehouse.matrix import Picked

        picked = Picked(self, query, side)
        return picked.vectors(site, layer, head, dtype), picked.frame()

    def batches(
        self,
        *,
        site: str = "resid.post_mlp",
        layer: int | None = None,
        where: str | None = None,
        model: str | None = None,
        size: int = 8192,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 65_536,
        head: int | None = None,
        side: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> Batches:
        """The vectors of all tokens that stored a site, or of those that `where` (on `token_diagnostics`) leaves, `size` at
        a time: an iterable to go over as often as one likes. See `warehouse.batches.Batches`."""
        from warehouse.batches import Batches

        return Batches.of(
            self, site, layer, where, model, side,
            size=size, shuffle=shuffle, seed=seed, buffer=buffer, head=head, dtype=dtype,
        )  # fmt: skip

    def probe(
        self,
        query: str,
        *,
        site: str = "resid.post_mlp",
        layers: str | int | Sequence[int] = "all",
        run: str | None = None,
        target: str = "y",
        head: int | None = None,
        side: str | None = None,
        test: float = 0.25,
        max_tokens: int = 10_000,
        c: float = 0.1,
        seed: int = 0,
    ) -> pd.DataFrame:
        """A logistic probe a layer, from the vectors of the tokens that a query picks to their labels, in its column `target`:
        accuracy on held-out examples beside its baselines, a row a layer, as the table `probes` of a new run has them.

        `test` is the part of the examples to judge by; of more than `max_tokens` tokens, whole examples are drawn. `c` is the
        inverse strength of the penalty on standardised vectors. The same call again returns the run that is there. Needs
        scikit-learn (`trace-warehouse[capture]`). Raises UsageError as `matrix` does, and where there is nothing to tell apart.
        """
        from warehouse import probes

        chosen = layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)
        options = probes.Options(query, site, chosen, head, side, target, test, max_tokens, c, seed)
        store = probes.probe(self, options, run)
        return store.query("FROM probes ORDER BY layer").df().assign(run_id=store.meta.run_id)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_run(root: Path, run_id: str) -> Path:
    """The folder of a published run. Raises NotFound with the nearest names."""
    folder = layout.run_dir(root, run_id)
    if not (folder / layout.MANIFEST).is_file():
        hint = "It is unfinished: run its capture again to go on." if run_id in layout.staged_runs(root) else ""
        raise NotFound("run", run_id, layout.published_runs(root), hint)
    return folder


def refresh(root: Path) -> None:
    """Makes `warehouse.duckdb` anew from the runs that are there and from `sql/views/`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / layout.STAGING).mkdir(exist_ok=True)
    with filelock.FileLock(layout.catalog_lock_path(root)):
        temporary = root / layout.STAGING / f"{layout.CATALOG}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        with duckdb.connect(str(temporary)) as con:
            _create_views(con, root)
        temporary.replace(root / layout.CATALOG)


def _create_views(con: duckdb.DuckDBPyConnection, root: Path) -> None:
    for name, (query, comment, columns) in _views(root).items():
        con.execute(f"CREATE VIEW {name} AS {query}")
        con.execute(f"COMMENT ON VIEW {name} IS {sql_text(comment)}")
        for column in columns:
            con.execute(f"COMMENT ON COLUMN {name}.{column.name} IS {sql_text(column.comment)}")
    con.execute(f"CREATE VIEW {_STATE_VIEW} AS SELECT {sql_text(_state(root))} AS state")
    con.execute(f"COMMENT ON VIEW {_STATE_VIEW} IS 'A hash of all that these views were made from'")


def _open(path: Path) -> duckdb.DuckDBPyConnection:
    """The file as it is now, read-only. Attached rather than connected to: a process that has connected to a file goes on
    getting that one for its path, long after another has been moved into its place."""
    con = duckdb.connect()
    con.execute(f"ATTACH {sql_text(str(path))} AS warehouse (READ_ONLY)")
    con.execute("USE warehouse")
    return con


def views(root: Path) -> dict[str, str]:
    """The text of every view, as `traces sql --show NAME` prints it."""
    return {name: query for name, (query, _, _) in _views(root).items()}


def _views(root: Path) -> dict[str, tuple[str, str, tuple[Column, ...]]]:
    """Name → (query, comment, columns), in an order in which each finds those it needs."""
    made = {t.name: (_table_view(root, t), f"One row is {t.row}", t.columns) for t in TABLES.values()}
    made["vector_tables"] = (_vector_tables_view(root), "One row is a vector table, which traces index makes", ())
    for path in sorted((layout.data_dir("sql") / "views").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        made[path.stem] = (text.rstrip().rstrip(";"), text.splitlines()[0].removeprefix("-- "), ())
    return made


def _table_view(root: Path, table: Table) -> str:
    if not _has_rows(root, table):
        empty = ",\n".join(f"    NULL::{c.sql} AS {c.name}" for c in table.columns)
        return f"SELECT\n{empty}\nWHERE false\n"
    if not table.stored:
        return _runs_view(root)
    names = ",\n".join(f"    {c.name}" for c in table.columns)
    files = sql_path(root.absolute(), f"{layout.RUN_PREFIX}*/{table.name}/*.parquet")
    return (
        f"SELECT\n{names}\nFROM read_parquet({files}, hive_partitioning = true, "
        "hive_types = {'run_id': VARCHAR}, union_by_name = true)\n"
    )


def _runs_view(root: Path) -> str:
    files = sql_path(root.absolute(), f"{layout.RUN_PREFIX}*/{layout.MANIFEST}")
    groups = sorted({path.split(".")[0] for path in _MANIFEST_COLUMNS.values()})
    nested = {g: "JSON" for g in groups if any(p.startswith(f"{g}.") for p in _MANIFEST_COLUMNS.values())}
    types = {c.name: c.sql for c in TABLES["runs"].columns}
    plain = {g: types[g] for g in groups if g not in nested}
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in (plain | nested).items())
    columns = []
    for name, path in _MANIFEST_COLUMNS.items():
        group, _, leaf = path.partition(".")
        value = _FROM_JSON.get(name, f"({{group}} ->> '$.{{leaf}}')::{types[name]}").format(group=group, leaf=leaf)
        columns.append(f"    {value} AS {name}" if leaf else f"    {name}")
    names = ",\n".join(columns)
    return f"SELECT\n{names}\nFROM read_json({files}, columns = {{{spec}}}, format = 'unstructured')\n"


_VECTOR_COLUMNS = {
    "name": ("VARCHAR", "sql_name"),
    "model": ("VARCHAR", "model"),
    "side": ("VARCHAR", "side"),
    "site": ("VARCHAR", "site"),
    "layer": ("BIGINT", "layer"),
    "width": ("BIGINT", "width"),
    "heads": ("BIGINT", "heads"),
    "rows": ("BIGINT", "list_sum(list_transform(json_keys(runs), lambda r: (runs -> r ->> 'rows')::BIGINT))::BIGINT"),
    "runs": ("VARCHAR[]", "json_keys(runs)"),
    "dtype": ("VARCHAR", "dtype"),
    "centred": ("BOOLEAN", "centred"),
    "metric": ("VARCHAR", "metric"),
    "search": ("VARCHAR", "coalesce(index ->> 'kind', 'exact')"),
    "recall": ("DOUBLE", "coalesce((index ->> 'recall')::DOUBLE, 1)"),
}
"""What `vector_tables` tells of a table, and where its info keeps that."""


def _vector_tables_view(root: Path) -> str:
    if not layout.vector_tables(root):
        empty = ",\n".join(f"    NULL::{kind} AS {name}" for name, (kind, _) in _VECTOR_COLUMNS.items())
        return f"SELECT\n{empty}\nWHERE false\n"
    columns = ",\n".join(f"    {source} AS {name}" for name, (_, source) in _VECTOR_COLUMNS.items())
    read = {"runs": "JSON", "index": "JSON"} | {
        source: kind for _, (kind, source) in _VECTOR_COLUMNS.items() if source.isidentifier()
    }
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in read.items())
    return f"SELECT\n{columns}\nFROM read_json({sql_path(layout.vectors_dir(root.absolute()), layout.VECTOR_INFOS)}, columns = {{{spec}}})\n"


def _has_rows(root: Path, table: Table) -> bool:
    pattern = f"{table.name}/*.parquet" if table.stored else layout.MANIFEST
    return next(root.glob(f"{layout.RUN_PREFIX}*/{pattern}"), None) is not None


def _state(root: Path) -> str:
    """A hash of the views' texts: they tell of the root, and of which tables have any rows."""
    import hashlib

    return hashlib.sha256(repr(sorted(views(root).items())).encode()).hexdigest()[:16]


def _is_stale(root: Path) -> bool:
    path = root / layout.CATALOG
    if not path.is_file():
        return True
    try:
        with _open(path) as con:
            row = con.sql(f"SELECT state FROM {_STATE_VIEW}").fetchone()
    except duckdb.Error:
        return True
    return row is None or row[0] != _state(root)
