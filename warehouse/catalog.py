"""Warehouse: all runs as one database. Makes `warehouse.duckdb`, and opens it read-only.

The file holds views and nothing else: one over each table's Parquet files (from `warehouse.schema`), `runs` over the
manifests, and those in `sql/views/`. It is made under another name and moved into place, so that a reader sees the old one
or the new one; nobody ever holds it open for writing, since DuckDB would then lock every reader out.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import duckdb
import filelock

from warehouse import layout
from warehouse.errors import LeftOut, NotFound, TracesError, UsageError
from warehouse.files import delete, sweep, temporary_beside
from warehouse.quoting import sql_text
from warehouse.statements import only_asks
from warehouse.survey import Survey, file_state, from_json, is_current, survey, to_json
from warehouse.views import texts

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import ArrayLike, DTypeLike

    from warehouse.batches import Batches
    from warehouse.store import TraceStore
    from warehouse.vectors.tables import Opened, VectorTable

Answer = TypeVar("Answer")

_STATE_VIEW = "catalog_state"
_ATTACHED = "warehouse"
"""What the file of views is called in the database that it is attached to."""
_IN_MEMORY = "memory"
"""That database itself, which all connections share: it holds the views of vector tables."""
_OF_FILES = re.compile("parquet|json|utf|zstd|file|magic|page", re.IGNORECASE)
"""What DuckDB's errors over damaged files speak of, of those that a wrong query can cause too."""


class Warehouse:
    """All runs below a root. `sql` asks, `run` opens one run's tensors; closes with `close` or as a context manager.

    Several threads may ask at once, and get what each would get alone: every question has a DuckDB connection of its own.
    """

    def __init__(self, root: str | Path | None = None, *, every_file: bool = False) -> None:
        """Opens the warehouse at `root` (default: `$TRACES_HOME`, else `./runs`), making its views where they are missing
        or out of date. Runs that are damaged are left out of them, which a warning tells; with `every_file`, files that have changed
        beside a manifest that has not are noticed too. Raises UsageError where there is no such folder."""
        self.root = layout.find_root(root)
        self._lock = threading.RLock()
        """Around what is opened once, and made anew where a run turns out damaged."""
        self._vectors: Opened | None = None
        self._opened: dict[str, tuple[tuple[int, int], TraceStore]] = {}
        if not self.root.is_dir():
            raise UsageError(
                f"There is no warehouse at {self.root}. Capture something (traces capture next-token --help), "
                "or name another folder: --warehouse DIR or $TRACES_HOME."
            )
        state, known = _known(self.root)
        if state == _state(self.root) and is_current(self.root, known, every_file):
            self._use(known, _attach(self.root / layout.CATALOG))
        else:
            self._make(known)

    def _make(self, known: Survey) -> None:
        """Makes the views anew, and opens them."""
        try:
            found = refresh(self.root, known)
            con = _attach(self.root / layout.CATALOG)
        except (OSError, UsageError):  # somebody else's folder, which we may only read: the views are made in memory
            con = _attach(":memory:")
            found = _create_views(con, self.root, survey(self.root, known))
        self._use(found, con)

    def _use(self, found: Survey, con: duckdb.DuckDBPyConnection) -> None:
        self._base = con
        """Nothing is asked here: two threads' questions on one connection end each other, and give the other's rows or none."""
        self._threads = threading.local()
        self.damaged = {name: s.fault for name, s in found.items() if s.fault is not None}
        """Runs that are left out of the views, and why."""
        for name, fault in self.damaged.items():
            warnings.warn(f"run '{name}' is left out: {fault}", LeftOut, stacklevel=5)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Opens another connection to the views, which nobody else has."""
        con = self._base.cursor()
        con.execute(f"SET search_path = '{_ATTACHED},{_IN_MEMORY}'")  # a cursor does not know what its connection uses
        return con

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """This thread's own connection to the views, for what outlasts a question: variables, temporary tables, relations that
        are to be joined. From its first use on, `sql` and `nearest` answer through it in this thread, one after the other as
        DuckDB does: a relation that is read in part ends with the next question. Other threads see nothing of it."""
        if self._session is None:
            self._threads.session = self.cursor()
        found: duckdb.DuckDBPyConnection = self._threads.session
        return found

    @property
    def _session(self) -> duckdb.DuckDBPyConnection | None:
        return getattr(self._threads, "session", None)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer as a DuckDB relation: `.df()`, `.arrow()`, `.pl()`, `.fetchall()`. Raises duckdb.Error as DuckDB does.

        Each answer has a connection of its own, which lives as long as the relation does, whoever reads it: `.query` asks more of
        it, and two join only where both were asked for through one `connection`. A statement that is no question, such as SET
        VARIABLE, is for this thread's `connection`, and so are all questions after it."""
        return self.attempt(lambda: self._connection_for(query).sql(query))

    def _connection_for(self, query: str) -> duckdb.DuckDBPyConnection:
        if self._session is not None:
            return self._session
        con = self.cursor()
        return con if only_asks(con, query) else self.connection

    def attempt(self, work: Callable[[], Answer]) -> Answer:
        """Returns what `work` does. Where DuckDB fails in it over the file of a run, that run is left out of the views, which is
        told, and `work` is done again. Raises duckdb.Error where no file is at fault."""
        base = self._base
        try:
            return work()
        except duckdb.Error as e:
            if not self._leave_out(e, base):
                raise
        return work()

    def _leave_out(self, error: duckdb.Error, base: duckdb.DuckDBPyConnection) -> bool:
        """Looks for the runs that an error over the views of `base` may be about; returns whether there is one more that is left
        out now."""
        if isinstance(error, duckdb.InvalidInputException):
            about_files = _OF_FILES.search(str(error)) is not None
        else:
            about_files = not isinstance(
                error, duckdb.ProgrammingError | duckdb.DataError | duckdb.OutOfMemoryException
            )
        if not about_files:
            return False  # a wrong query
        with self._lock:
            if self._base is not base:
                return True  # another thread has left one out meanwhile
            _, known = _known(self.root)
            quick = survey(self.root, {n: s for n, s in known.items() if s.fault is not None})
            found = quick if _faults(quick) > self.damaged.keys() else survey(self.root, known, thorough=True)
            if not _faults(found) > self.damaged.keys():
                return False
            self._make(found)
            base.close()
        return True

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
        with self._lock:
            if run_id not in self._opened or self._opened[run_id][0] != state:
                self._opened[run_id] = (state, TraceStore(folder))
            return self._opened[run_id][1]

    # -- vectors ---------------------------------------------------------------------------------------------------

    @property
    def vector_tables(self) -> list[VectorTable]:
        """The vector tables as they are now."""
        from warehouse.vectors.tables import Opened

        with self._lock:
            if self._vectors is None:
                self._vectors = Opened(self.root)
            found = self._vectors.all()
        for damage in self.damaged_vectors:
            warnings.warn(f"a vector table is left out: {damage}", LeftOut, stacklevel=3)
        return found

    @property
    def damaged_vectors(self) -> list[TracesError]:
        """What is wrong with the vector tables that could not be read when `vector_tables` was asked for."""
        return [] if self._vectors is None else list(self._vectors.damaged.values())

    def load_vectors(self) -> None:
        """Makes the views `vectors_…` and the macros `nearest_…` known to `sql`, as `traces shell` does. Half a second."""
        from warehouse.vectors.fill import settle
        from warehouse.vectors.shell import statements

        with contextlib.suppress(OSError):  # a folder that we may only read
            settle(self.root)
        with self._lock:
            con = self.cursor()
            for statement in statements(self.vector_tables, _IN_MEMORY):
                con.execute(statement)

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
        `.query("n", "FROM n JOIN token_diagnostics USING (run_id, example_id, seq, pos, side)")` joins it with what is known.

        Raises UsageError for a vector that does not fit or is not finite, a layer without a table (with those there), and a
        filter with an error.
        """
        from warehouse.vectors import search

        found = search.nearest(
            self, vector, site=site, layer=layer, model=model, k=k, where=where, metric=metric, head=head, side=side,
            exact=exact,
        )  # fmt: skip
        return self.relation(found)

    def relation(self, rows: pa.Table) -> duckdb.DuckDBPyRelation:
        """Rows as an answer, which can be asked further as that of `sql`."""
        return (self._session or self.cursor()).from_arrow(rows)

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
        accuracy on held-out examples with its 95 % interval beside its baselines, a row a layer, as the table `probes` of a new run
        has them. Warns (`errors.Doubt`) where few examples were held out.

        `test` is the part to judge by, in whole examples; of more than `max_tokens` tokens, whole examples are drawn. `c` is the
        inverse strength of the penalty on standardised vectors. The same call again returns the run that is there. Needs
        scikit-learn (`trace-warehouse[capture]`). Raises UsageError as `matrix` does, and where there is nothing to tell apart.
        """
        from warehouse import probes

        chosen = layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)
        options = probes.Options(query, site, chosen, head, side, target, test, max_tokens, c, seed)
        store = probes.probe(self, options, run)
        return store.query("FROM probes ORDER BY layer").df().assign(run_id=store.meta.run_id)

    def close(self) -> None:
        self._base.close()
        self._threads = threading.local()

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


def refresh(root: Path, known: Survey | None = None) -> Survey:
    """Makes `warehouse.duckdb` anew from the runs that are there and from `sql/views/`; returns what was found about the runs.
    `known`: what is known already; the catalog's own, if left out."""
    lock = layout.catalog_lock_path(root)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        sweep(root / layout.STAGING)
        found = survey(root, _known(root)[1] if known is None else known)
        scratch = temporary_beside(root / layout.STAGING / layout.CATALOG)
        scratch.mkdir()
        try:
            made = scratch / layout.CATALOG
            found = _make_catalog(made, root, found)
            made.replace(root / layout.CATALOG)
        finally:
            delete(scratch)
    return found


def _make_catalog(path: Path, root: Path, found: Survey) -> Survey:
    """Makes the file of views; returns what is known of the runs then."""
    if "?" in str(path.absolute()):  # DuckDB writes to no such place, though it reads from there
        with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as elsewhere:
            found = _make_catalog(Path(elsewhere) / path.name, root, found)
            shutil.copyfile(Path(elsewhere) / path.name, path)
        return found
    with duckdb.connect(str(path)) as con:
        return _create_views(con, root, found)


def _create_views(con: duckdb.DuckDBPyConnection, root: Path, found: Survey) -> Survey:
    """Makes the views in a database without any. Runs that DuckDB cannot read are left out; returns what is known then."""
    try:
        con.execute("BEGIN")
        _create(con, root, found)
    except duckdb.Error:
        con.execute("ROLLBACK")
        found = survey(root, found, thorough=True)
        con.execute("BEGIN")
        _create(con, root, found)
    con.execute("COMMIT")
    return found


def _create(con: duckdb.DuckDBPyConnection, root: Path, found: Survey) -> None:
    made = texts(root, found, _sound_infos(root))
    for name, (query, comment, columns) in made.items():
        con.execute(f"CREATE VIEW {name} AS {query}")
        con.execute(f"COMMENT ON VIEW {name} IS {sql_text(comment)}")
        for column in columns:
            con.execute(f"COMMENT ON COLUMN {name}.{column.name} IS {sql_text(column.comment)}")
    con.execute(
        f"CREATE VIEW {_STATE_VIEW} AS SELECT {sql_text(_state(root))} AS state, {sql_text(to_json(found))} AS runs"
    )
    con.execute(
        f"COMMENT ON VIEW {_STATE_VIEW} IS 'A hash of what these views were made from, and what is known of the runs'"
    )
    con.sql("SELECT count(*) FROM (FROM runs)").fetchall()


def _attach(path: Path | str) -> duckdb.DuckDBPyConnection:
    """The file as it is now, read-only, or `:memory:`. Attached rather than connected to: a process that has connected to a file goes on
    getting that one for its path, long after another has been moved into its place."""
    con = duckdb.connect()
    con.execute(f"ATTACH {sql_text(str(path))} AS {_ATTACHED} {'(READ_ONLY)' if isinstance(path, Path) else ''}")
    con.execute(f"USE {_ATTACHED}")
    return con


def views(root: Path) -> dict[str, str]:
    """The text of every view, as `traces sql --show NAME` prints it."""
    found = survey(root, _known(root)[1])
    return {name: query for name, (query, _, _) in texts(root, found, _sound_infos(root)).items()}


def _faults(found: Survey) -> set[str]:
    return {name for name, s in found.items() if s.fault is not None}


def _sound_infos(root: Path) -> list[Path]:
    """Of the vector tables, those that can be read."""
    if not layout.vector_tables(root):
        return []
    from warehouse.vectors.tables import sound_infos

    return sound_infos(root)


def _state(root: Path) -> str:
    """A hash of what the views' texts depend on beside the runs: the root, the schema, `sql/views/` and the vector tables. The
    root's place on the disk is in it too, so that a catalog that was copied in is made anew, whatever its views say."""
    import hashlib

    made = {name: query for name, (query, _, _) in texts(root, {}, ()).items()}
    infos = (layout.vector_info_path(root, *names) for names in layout.vector_tables(root))
    here = root.stat()
    made[""] = f"{here.st_dev} {here.st_ino}"
    made["vector_tables"] = " ".join(f"{path} {file_state(path)}" for path in infos)
    return hashlib.sha256(
        repr((str(root.absolute()), sorted(made.items()))).encode(errors="backslashreplace")
    ).hexdigest()[:16]


def _known(root: Path) -> tuple[str, Survey]:
    """The catalog's state, empty where there is none of this version, and what it knows of the runs."""
    path = root / layout.CATALOG
    if not path.is_file():
        return "", {}
    try:
        with _attach(path) as con:
            row = con.sql(f"SELECT state, runs FROM {_STATE_VIEW}").fetchone()
        return (row[0], from_json(row[1])) if row is not None else ("", {})
    except (duckdb.Error, ValueError, TypeError, AttributeError):  # a file of another version, or a damaged one
        return "", {}
