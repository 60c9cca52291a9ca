"""Where a vector table is, what is known of it, and who may change it.

`vectors/<model>/<site>.L15.lance` holds a row a token, or a token and head, of every run that asked. `<site>.L15.info.json`
beside it is written after every change, and so says when an open table has to be opened again; `model.json` says
which weights the folder is of.
"""

from __future__ import annotations

import os
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np
import pyarrow as pa

from warehouse.errors import CorruptRunError, TracesError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.files import delete, file_checksum
from warehouse.storage.manifest import manifest_hash
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.vector_info import (
    _CENTRE,
    FileChecksum,
    RunRows,
    TableFiles,
    TableInfo,
    _check_no_links,
    read_info,
)
from warehouse.vectors.model_folders import remove_if_empty

if TYPE_CHECKING:
    from lancedb.db import DBConnection as LanceConnection
    from lancedb.table import Table as LanceTable


_LARGE = 1 << 20


FORMAT = {"new_table_data_storage_version": "2.2"}
"""The newest of Lance's file formats that the DuckDB extension reads."""


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
        return paths.vector_info_path(self.root, self.info.model, self.info.name)

    @property
    def path(self) -> Path:
        return paths.vector_lance_path(self.root, self.info.model, self.info.name)

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
        if not self.has_unlisted_rows:
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
        except (CorruptRunError, OSError, ValueError, RuntimeError, FileNotFoundError) as e:
            raise TracesError(
                f"{self.path} cannot be read ({first_line(e)[:200]}): traces index rebuild makes it again."
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
            _check_no_links(self.path)
        except CorruptRunError as e:
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
        path = paths.vector_files_path(self.root, self.info.model, self.info.name)
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
                files[name] = FileChecksum(bytes=size, checksum=file_checksum(file))
        TableFiles(files=files).write_to(path)

    @contextmanager
    def locked(self, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """While one process changes a table others wait, and call `waiting` once with why."""
        path = paths.vector_lock_path(self.root, self.info.model, self.info.name)
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

    def compact(self) -> None:
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

    def live_runs(self) -> list[str]:
        """The runs of the table that are in the warehouse, and are those that it was filled from."""
        return [run for run, rows in self.info.runs.items() if self._is_unchanged(run, rows)]

    def stale_runs(self) -> list[str]:
        """The others."""
        live = set(self.live_runs())
        return [run for run in self.info.runs if run not in live]

    def _is_unchanged(self, run: str, rows: RunRows) -> bool:
        """Reads a manifest once, and again when it has changed."""
        path = paths.run_dir(self.root, run) / paths.MANIFEST
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
    def has_unlisted_rows(self) -> bool:
        """Whether there are rows of runs that the info does not tell of: a process died, or is just about to note them."""
        return self.count != self.info.rows


def open_lance(path: Path) -> LanceTable:
    """Opens a Lance table that is there. Raises CorruptRunError for one that holds more than files and folders, and OSError, ValueError or
    RuntimeError as lancedb does.
    """
    _check_no_links(path)
    return connect(path.parent).open_table(path.name.removesuffix(".lance"))


def connect(folder: Path) -> LanceConnection:
    os.environ.setdefault("LANCEDB_LOG", "error")  # what it warns of while it trains is for who wrote it
    import lancedb

    folder.mkdir(parents=True, exist_ok=True)
    return lancedb.connect(folder)


def remove_files(root: Path, model: str, table: str) -> None:
    """Deletes what a vector table is kept in."""
    delete(paths.vector_info_path(root, model, table))
    delete(paths.vector_files_path(root, model, table))
    delete(paths.vector_lance_path(root, model, table))


def new_info(model: str, meta_model: ModelInfo, key: Key, row_shape: tuple[int, ...]) -> TableInfo:
    """Of a table that is not there yet. Raises UsageError for a site whose rows are no vectors."""
    if len(row_shape) not in (1, 2):
        raise UsageError(f"{key.site} has rows of shape {row_shape}: no vectors.")
    return TableInfo(
        sql_name=paths.sql_name(f"{model}_{sites.tensor_name(*key)}"),
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
        return VectorTable(root, read_info(root, model, sites.tensor_name(*key)))
    except FileNotFoundError:
        return None
