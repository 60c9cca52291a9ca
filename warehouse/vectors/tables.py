"""Where a vector table is, what is known of it, and who may change it.

`vectors/<model>/<site>.L15.lance` holds a row a token, or a token and head, of every run that asked. `<site>.L15.info.json`
beside it is written after every change, and so says when an open table has to be opened again; `model.json` says
which weights the folder is of.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import filelock
import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from warehouse import layout
from warehouse.errors import CorruptRun, NotFound, TracesError, UsageError
from warehouse.files import delete, file_checksum, read_file
from warehouse.manifest import Count, Layer, ModelInfo, Site, Size
from warehouse.sealed import Sealed, Typed
from warehouse.sites import Key

if TYPE_CHECKING:
    from lancedb.table import Table as LanceTable

METRICS = ("cosine", "l2", "dot")

_LARGE = 1 << 20

_CENTRE = b"trace-warehouse:centre"
"""Where in a Lance table's metadata its centre is, float32 in base64: it changes together with the vectors, in one commit."""

FORMAT = {"new_table_data_storage_version": "2.2"}
"""The newest of Lance's file formats that the DuckDB extension reads."""


class ModelFolder(Sealed):
    """`model.json`: whose vectors a folder's tables hold."""

    names: list[str]
    """What its captures called the model."""
    space: str
    """The hash of its weights, the head left out."""


class RunRows(Typed):
    """A run's rows in a table."""

    manifest: str
    """Hash of its run.json: a run that was replaced under the same name has another."""
    rows: Count
    last_seq: Count = 0
    """The highest `seq` among them."""


class IndexInfo(Typed):
    """A table's vector index, and how it is searched."""

    kind: Literal["ivf_sq", "ivf_pq"]
    metric: Literal["cosine", "l2", "dot"]
    trained_rows: Count
    """Rows of the table when the index was trained."""
    nprobes: Size = 0
    refine: Size = 0
    """So many times k candidates are compared again by their whole vectors."""
    recall: Annotated[float, Field(ge=0, le=1)] = 0.0
    """recall@10 on a sample of the table's rows, against exact search. Below `index.LEAST_RECALL` the index is not used."""


class FileSum(Typed):
    bytes: Count
    checksum: str
    """xxh3-128."""


class TableFiles(Sealed):
    """`….files.json`: what a table's files held when it was last changed."""

    files: dict[str, FileSum]
    """By path in the table's folder."""


class TableInfo(Sealed):
    """What is known of a vector table."""

    sql_name: str
    """What SQL calls it, after `vectors_` and `nearest_`: made of folder and table, and never anything else."""
    model: str
    """The folder's name."""
    space: str
    side: Literal["dec", "enc"]
    site: Site
    layer: Layer | None
    width: Size
    heads: Size | None
    """Rows of a token: heads of that site; None: one."""
    query_heads: Size
    dtype: Literal["float16", "float32"] = "float16"
    """float32 where a value is beyond float16."""
    centred: bool = False
    """Whether vectors are stored less the median of the table: `VectorTable.centre`."""
    kind: Literal["auto", "none", "ivf_sq", "ivf_pq"] = "auto"
    """What index was asked for; auto: none while the table is small, then ivf_sq."""
    metric: Literal["cosine", "l2", "dot"] = "cosine"
    """The metric that it is to be of."""
    runs: dict[str, RunRows] = Field(default_factory=dict)
    index: IndexInfo | None = None

    @property
    def name(self) -> str:
        return layout.tensor_name(self.side, self.site, self.layer)

    @property
    def rows(self) -> int:
        return sum(r.rows for r in self.runs.values())

    @property
    def head_column(self) -> str | None:
        """The key that tells a token's rows apart."""
        if self.heads is None:
            return None
        return "kv_head" if self.site.rpartition(".")[2] in ("k", "v") else "head"

    def own_head(self, head: int) -> int:
        """The head column's value for a query head. Raises UsageError where there is no such head."""
        if self.heads is None:
            raise UsageError(f"{self.site} has no heads.")
        n = max(self.query_heads, self.heads)
        if not 0 <= head < n:
            raise UsageError(f"head {head}: {self.model} has heads 0 to {n - 1}.")
        return head * self.heads // n

    def arrow_schema(self, centre: np.ndarray | None) -> pa.Schema:
        """A row's columns. `head` and `kv_head` are NULL where a token has one vector."""
        item = pa.float16() if self.dtype == "float16" else pa.float32()
        whole = ("seq", "pos", "layer", "head", "kv_head")
        columns = [
            ("run_id", pa.string()),
            ("example_id", pa.string()),
            *((name, pa.int64()) for name in whole),
            ("vector", pa.list_(item, self.width)),
        ]
        return pa.schema(
            columns, metadata={} if centre is None else {_CENTRE: b64encode(centre.astype("<f4").tobytes())}
        )


def read_info(root: Path, model: str, table: str) -> TableInfo:
    """What is known of the vector table in a folder. Its info may have been copied in: it must be of the table that it stands beside.

    Raises NewerSchema, FileNotFoundError, or TracesError with what to do.
    """
    path = layout.vector_info_path(root, model, table)
    try:
        info = TableInfo.read_from(path)
        _check_is_ours(layout.vector_lance_path(root, model, table))
        if (info.model, info.name, info.sql_name) != (model, table, layout.sql_name(f"{model}_{table}")):
            raise CorruptRun(f"{path} says that it is of another table than {model}/{table}.")
    except CorruptRun as e:
        raise TracesError(f"{e} traces index rebuild makes the vector table again.") from None
    return info


def sound_infos(root: Path) -> list[Path]:
    """The infos of all vector tables that can be read."""
    found = []
    for model, table in layout.vector_tables(root):
        with contextlib.suppress(TracesError, FileNotFoundError):
            read_info(root, model, table)
            found.append(layout.vector_info_path(root, model, table))
    return found


class VectorTable:
    """A vector table. Its info is read when it is opened; `locked` reads it again."""

    def __init__(self, root: Path, info: TableInfo) -> None:
        self.root, self.info = root, info
        self._opened: LanceTable | None = None
        self._count: int | None = None
        self._seen: dict[str, tuple[int, int, str]] = {}
        self._centre: tuple[np.ndarray | None] | None = None

    @property
    def key(self) -> Key:
        """The tensor that its rows are of."""
        return Key(self.info.side, self.info.site, self.info.layer)

    @property
    def info_path(self) -> Path:
        return layout.vector_info_path(self.root, self.info.model, self.info.name)

    @property
    def path(self) -> Path:
        return layout.vector_lance_path(self.root, self.info.model, self.info.name)

    @property
    def lance(self) -> LanceTable:
        """Raises TracesError where the files are gone or damaged."""
        found = self._opened  # another thread may open it again at any moment
        if found is None:
            found = self._opened = self._open()
        return found

    @property
    def constants(self) -> dict[str, str | int]:
        """Key columns that are the same on every row, which Lance is slow to look up: that takes 2 ms each at a million rows."""
        found: dict[str, str | int] = {}
        if not self.has_unlisted:
            if len(self.info.runs) == 1:
                found["run_id"] = next(iter(self.info.runs))
            if not any(r.last_seq for r in self.info.runs.values()):
                found["seq"] = 0
        return found

    @property
    def count(self) -> int:
        """All rows that are there."""
        found = self._count
        if found is None:
            found = self._count = self.lance.count_rows()
        return found

    def _open(self) -> LanceTable:
        try:
            return open_lance(self.path)
        except (CorruptRun, OSError, ValueError, RuntimeError, FileNotFoundError) as e:
            raise TracesError(
                f"{self.path} cannot be read ({_first_line(e)}): traces index rebuild makes it again."
            ) from e

    def reopen(self) -> None:
        self._opened = self._count = self._centre = None

    @property
    def centre(self) -> np.ndarray | None:
        """What was subtracted from every vector, (width,) float32; None: nothing."""
        found = self._centre
        if found is None:
            octets = (self.lance.schema.metadata or {}).get(_CENTRE)
            found = self._centre = (None if octets is None else np.frombuffer(b64decode(octets), "<f4"),)
        return found[0]

    def replace(self, rows: pa.RecordBatchReader) -> None:
        """Puts `rows` in the place of all that is in the Lance table, in one commit: readers see the old or the new."""
        try:
            _check_is_ours(self.path)
        except CorruptRun as e:
            raise TracesError(f"{e} traces index rebuild makes the vector table again.") from None
        mode = "overwrite" if self.path.is_dir() else "create"
        db = connect(self.path.parent)
        self.reopen()
        self._opened = db.create_table(self.info.name, rows, mode=mode, storage_options=FORMAT)

    def write_info(self) -> None:
        """Notes what is known of the table, and the checksums of its files: call it after every change."""
        self._write_files()
        self.info.write_to(self.info_path)

    def _write_files(self) -> None:
        """Lance never changes a file with data in it: large ones that were there keep their checksums."""
        path = layout.vector_files_path(self.root, self.info.model, self.info.name)
        try:
            known = TableFiles.read_from(path).files
        except (TracesError, FileNotFoundError):
            known = {}
        files = {}
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name, size = file.relative_to(self.path).as_posix(), file.stat().st_size
            if size >= _LARGE and name in known and known[name].bytes == size:
                files[name] = known[name]
            else:
                files[name] = FileSum(bytes=size, checksum=file_checksum(file))
        TableFiles(files=files).write_to(path)

    @contextmanager
    def locked(self, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """While one process changes a table others wait, and call `waiting` once with why."""
        path = layout.vector_lock_path(self.root, self.info.model, self.info.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            waiting(f"another process is filling or optimising {self.info.model}/{self.info.name}: waiting for it")
            lock.acquire()
        try:
            if self.exists:
                self.info = read_info(self.root, self.info.model, self.info.name)
            self.reopen()
            yield
        finally:
            lock.release()

    def tidy(self) -> None:
        """Merges small files and deletes what no reader needs any more; one that had it open opens the table again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lancedb says to whom that may happen
            self.lance.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        self.reopen()

    @property
    def exists(self) -> bool:
        return self.info_path.is_file()

    def remove(self) -> None:
        """Deletes the table; the runs keep what it was made of."""
        remove_files(self.root, self.info.model, self.info.name)
        remove_if_empty(self.root, self.info.model)

    def live(self) -> list[str]:
        """The runs of the table that are in the warehouse, and are those that it was filled from."""
        return [run for run, rows in self.info.runs.items() if self._is_there(run, rows)]

    def stale(self) -> list[str]:
        """The others."""
        live = set(self.live())
        return [run for run in self.info.runs if run not in live]

    def _is_there(self, run: str, rows: RunRows) -> bool:
        """Reads a manifest once, and again when it has changed."""
        path = layout.run_dir(self.root, run) / layout.MANIFEST
        try:
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_ino, rows.manifest)
            if self._seen.get(run) != state:
                if manifest_hash(self.root, run) != rows.manifest:
                    return False
                self._seen[run] = state
        except OSError:
            return False
        return True

    @property
    def has_unlisted(self) -> bool:
        """Whether there are rows of runs that the info does not tell of: a process died, or is just about to note them."""
        return self.count != self.info.rows


def open_lance(path: Path) -> LanceTable:
    """Opens a Lance table that is there. Raises CorruptRun for one that holds more than files and folders, and OSError, ValueError or
    RuntimeError as lancedb does."""
    _check_is_ours(path)
    return connect(path.parent).open_table(path.name.removesuffix(".lance"))


def _check_is_ours(path: Path) -> None:
    """Raises CorruptRun for a Lance table with anything but files and folders in it: Lance writes and deletes through links, and
    waits without end for a named pipe."""
    for found in (path, *path.rglob("*")):
        try:
            mode = found.lstat().st_mode
        except FileNotFoundError:  # somebody is tidying
            continue
        if stat.S_ISLNK(mode):
            raise CorruptRun(f"{found} is a symbolic link, whose target is not ours to change.")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CorruptRun(f"{found} is neither a file nor a folder.")


def connect(folder: Path) -> LanceConnection:
    os.environ.setdefault("LANCEDB_LOG", "error")  # what it warns of while it trains is for who wrote it
    import lancedb

    folder.mkdir(parents=True, exist_ok=True)
    return lancedb.connect(folder)


if TYPE_CHECKING:
    from lancedb.db import DBConnection as LanceConnection


def _first_line(e: BaseException) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:200]


def manifest_hash(root: Path, run_id: str) -> str:
    """Tells a run from another that has taken its name."""
    return xxhash.xxh3_128_hexdigest(read_file(layout.run_dir(root, run_id) / layout.MANIFEST))


def all_tables(root: Path) -> list[VectorTable]:
    """Every vector table, by model, site and layer."""
    return Opened(root).all()


def remove_files(root: Path, model: str, table: str) -> None:
    """Deletes what a vector table is kept in."""
    delete(layout.vector_info_path(root, model, table))
    delete(layout.vector_files_path(root, model, table))
    delete(layout.vector_lance_path(root, model, table))


def remove_if_empty(root: Path, model: str) -> None:
    """Deletes the folder of a model that has no vector tables any more."""
    if model not in {m for m, _ in layout.vector_tables(root)} | set(layout.trait_table_folders(root)):
        delete(layout.vectors_dir(root) / model)


def models(root: Path) -> dict[str, ModelFolder]:
    """The folders of vector tables; one whose model.json is lost or damaged is of what its tables say."""
    found: dict[str, ModelFolder] = {}
    for model in layout.vector_folders(root):
        try:
            found[model] = ModelFolder.read_from(layout.vector_model_path(root, model))
        except (CorruptRun, FileNotFoundError):
            space = next(_spaces(root, model), None)
            if space is not None:
                found[model] = ModelFolder(names=[model], space=space)
    return found


def _spaces(root: Path, model: str) -> Iterator[str]:
    """The weights that a folder's tables say they are of."""
    for folder, table in layout.vector_tables(root):
        if folder == model:
            with contextlib.suppress(TracesError, FileNotFoundError):
                yield read_info(root, model, table).space


def folder_of(root: Path, model: ModelInfo) -> str | None:
    """The folder with vectors of these weights, whatever the model is called."""
    return next((f for f, m in models(root).items() if m.space == model.space), None)


def folder_named(root: Path, model: str) -> str:
    """The folder that a user means: by its own name, or by what captures call the model.

    Raises NotFound, or UsageError where two models with different weights are called so.
    """
    known = models(root)
    if model in known:
        return model
    found = [f for f, m in known.items() if model in m.names]
    if len(found) > 1:
        raise UsageError(f"'{model}' has had different weights, each with vectors of its own: {' or '.join(found)}.")
    if not found:
        raise NotFound("model with vector tables", model, known, "Make one: traces index add --help")
    return found[0]


def folder_for(model: ModelInfo) -> str:
    """What a model's folder is called, unless another's is."""
    return layout.sql_name(Path(model.name).name.removesuffix(".gguf"))[:100]


def claim_folder(root: Path, model: ModelInfo) -> str:
    """The folder for a model's vectors, made if there is none: the same weights share one, others never do."""
    lock = layout.vector_folders_lock_path(root)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        known = models(root)
        folder = folder_of(root, model)
        names = known[folder].names if folder else []
        if folder and model.name in names:
            return folder
        if folder is None:
            folder = folder_for(model)
            if folder.casefold() in {f.casefold() for f in (*known, *layout.vector_folders(root))}:
                folder = f"{folder}_{model.space[:6]}"
        made = ModelFolder(names=[*names, model.name], space=model.space)
        path = layout.vector_model_path(root, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.write_to(path)
        return folder


def new_info(model: str, meta_model: ModelInfo, key: Key, row_shape: tuple[int, ...]) -> TableInfo:
    """Of a table that is not there yet. Raises UsageError for a site whose rows are no vectors."""
    if len(row_shape) not in (1, 2):
        raise UsageError(f"{key.site} has rows of shape {row_shape}: no vectors.")
    return TableInfo(
        sql_name=layout.sql_name(f"{model}_{layout.tensor_name(*key)}"),
        model=model,
        space=meta_model.space,
        side="enc" if key.side == "enc" else "dec",
        site=key.site,
        layer=key.layer,
        width=row_shape[-1],
        heads=row_shape[0] if len(row_shape) == 2 else None,
        query_heads=meta_model.stack(key.side).heads_of(key.layer),
    )


def table_of(root: Path, model: str, key: Key) -> VectorTable | None:
    """A model's table of a tensor, if it has one."""
    try:
        return VectorTable(root, read_info(root, model, layout.tensor_name(*key)))
    except FileNotFoundError:
        return None


class Opened:
    """The vector tables of a warehouse, kept open from one search to the next, and opened again when they have changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, str], tuple[tuple[int, int], VectorTable]] = {}
        self.damaged: dict[tuple[str, str], TracesError] = {}
        """Tables that cannot be read, by model and name, and what is wrong with them."""

    def all(self) -> list[VectorTable]:
        """As they are now, by model, site and layer."""
        now: dict[tuple[str, str], tuple[tuple[int, int], VectorTable]] = {}
        self.damaged = {}
        for name in layout.vector_tables(self._root):
            path = layout.vector_info_path(self._root, *name)
            try:
                stat = path.stat()
                state, known = (stat.st_mtime_ns, stat.st_ino), self._known.get(name)
                now[name] = (
                    known
                    if known and known[0] == state
                    else (state, VectorTable(self._root, read_info(self._root, *name)))
                )
            except FileNotFoundError:  # dropped at this moment
                continue
            except TracesError as e:
                self.damaged[name] = e
        self._known = now
        return _sorted(table for _, table in now.values())


def _sorted(tables: Iterable[VectorTable]) -> list[VectorTable]:
    return sorted(tables, key=lambda t: (t.info.model, t.info.side, t.info.site, t.info.layer or 0))
