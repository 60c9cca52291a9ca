"""A vector table: where it is, what is known of it, and who may change it.

`vectors/<model>/<site>.L15.lance` holds a row per token, or per token and head, of every run that was added. `<site>.L15.info.json`
beside it is written after every change, and so shows that an open table has to be opened again. `model.json` says which weights the
folder belongs to.
"""

from __future__ import annotations

import os
import uuid
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from warehouse.catalog.listed import listed_hashes
from warehouse.errors import CorruptRunError, StoreError, TracesError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import object_log, paths
from warehouse.storage.exclusive import exclusive
from warehouse.storage.files import delete, file_checksum
from warehouse.storage.manifest import manifest_hash
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.objects import AnyPath, ObjectPath, below
from warehouse.storage.s3_credentials import s3_options
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
    from lancedb.query import AsyncQueryBase as AsyncQuery
    from lancedb.table import AsyncTable
    from lancedb.table import Table as LanceTable


Opened = TypeVar("Opened")

_LARGE = 1 << 20
"""Bytes from which a file keeps its known checksum if its size is the same."""

FORMAT = {"new_table_data_storage_version": "2.2"}
"""The newest of Lance's file formats that the DuckDB extension reads."""


class VectorTable:
    """A vector table, which need not exist yet. Its info is read when it is opened; `locked` reads it again."""

    def __init__(self, root: AnyPath, info: TableInfo) -> None:
        self.root, self.info = root, info
        self._opened: LanceTable | None = None
        self._opened_async: AsyncTable | None = None
        self._count: int | None = None
        self._seen: dict[str, tuple[int, int, str]] = {}
        self._centre: tuple[np.ndarray | None] | None = None

    @property
    def key(self) -> Key:
        """The tensor that its rows come from."""
        return Key(self.info.side, self.info.site, self.info.layer)

    @property
    def info_path(self) -> AnyPath:
        """The file of its info, which exists if the table does."""
        return paths.vector_info_path(self.root, self.info.model, self.info.name)

    @property
    def path(self) -> AnyPath:
        """The folder of the Lance table."""
        return paths.vector_lance_path(self.root, self.info.model, self.info.name)

    @property
    def lance(self) -> LanceTable:
        """The open Lance table; raises TracesError where its files are gone or damaged."""
        opened = self._opened  # another thread may open it again at any moment
        if opened is None:
            opened = self._opened = _opening(self.path, open_lance)
        return opened

    def ask(self, question: Callable[[AsyncTable], AsyncQuery]) -> pa.Table:
        """Return the rows that a query of the Lance table finds; lancedb takes a millisecond more for the same by its other interface.

        Args:
            question: Makes the query.

        Returns:
            The rows; TracesError is raised where the table's files are gone or damaged.
        """
        from lancedb.background_loop import LOOP

        opened = self._opened_async
        if opened is None:
            opened = self._opened_async = _opening(self.path, lambda path: LOOP.run(_open_async(path)))
        return LOOP.run(question(opened).to_arrow())

    @property
    def constants(self) -> dict[str, str | int]:
        """The key columns that are the same on every row; Lance takes 2 ms to look up each at a million rows."""
        constants: dict[str, str | int] = {}
        if not self.has_unlisted_rows:
            if len(self.info.runs) == 1:
                constants["run_id"] = next(iter(self.info.runs))
            if not any(r.last_seq for r in self.info.runs.values()):
                constants["seq"] = 0
        return constants

    @property
    def count(self) -> int:
        """The number of all rows, listed or not."""
        count = self._count
        if count is None:
            count = self._count = self.lance.count_rows()
        return count

    def reopen(self) -> None:
        """Forget the open Lance table, so that the next use opens it again."""
        self._opened = self._opened_async = self._count = self._centre = None

    @property
    def centre(self) -> np.ndarray | None:
        """The vector that was subtracted from every vector, (width,) float32; None where none was."""
        read = self._centre
        if read is None:
            octets = (self.lance.schema.metadata or {}).get(_CENTRE)
            read = self._centre = (None if octets is None else np.frombuffer(b64decode(octets), "<f4"),)
        return read[0]

    def replace(self, rows: pa.RecordBatchReader) -> None:
        """Replace all rows of the Lance table by `rows` in one commit: readers see the old rows or the new."""
        try:
            _check_no_links(self.path)
        except CorruptRunError as e:
            raise TracesError(f"{e} traces index rebuild makes the vector table again.") from None
        mode = "overwrite" if self.path.is_dir() else "create"
        db = connect(self.path.parent)
        self.reopen()
        self._opened = db.create_table(
            self.info.name, rows, mode=mode, storage_options=FORMAT | lance_options(self.path)
        )

    def write_info(self) -> None:
        """Write the table's info and the checksums of its files; must be called after every change."""
        self._write_files()
        self.info.write_to(self.info_path)
        _note_change(self.root, self.info.model, self.info.name)

    def _write_files(self) -> None:
        """Write the checksums of the table's files; large known ones are not read again, since Lance never changes a data file."""
        path = paths.vector_files_path(self.root, self.info.model, self.info.name)
        try:
            known = TableFiles.read_from(path).files
        except (TracesError, FileNotFoundError):
            known = {}
        files = {}
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name, size = below(file, self.path), file.stat().st_size
            if size >= _LARGE and name in known and known[name].bytes == size:
                files[name] = known[name]
            else:
                files[name] = FileChecksum(bytes=size, checksum=file_checksum(file))
        TableFiles(files=files).write_to(path)

    @contextmanager
    def locked(self, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Hold the table's lock, since one process at a time may change it; a process that has to wait calls `waiting` with why."""
        path = paths.vector_lock_path(self.root, self.info.model, self.info.name)
        what = f"another process is filling or optimising {self.info.model}/{self.info.name}: waiting for it"
        with exclusive(self.root, path, lambda: waiting(what)):
            if self.exists:
                self.info = read_info(self.root, self.info.model, self.info.name)
            self.reopen()
            yield

    def compact(self) -> None:
        """Merge small files and delete those of former versions; a reader that had one open opens the table again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lancedb warns of what this may do to readers
            self.lance.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        self.reopen()

    @property
    def exists(self) -> bool:
        """Whether the table exists."""
        return self.info_path.is_file()

    def remove(self) -> None:
        """Delete the table; the runs keep what it was made from."""
        remove_files(self.root, self.info.model, self.info.name)
        remove_if_empty(self.root, self.info.model)

    def live_runs(self) -> list[str]:
        """Return the table's runs that still are in the warehouse as they were when their rows were added."""
        listed = listed_hashes(self.root) if isinstance(self.root, ObjectPath) else {}
        return [
            run
            for run, rows in self.info.runs.items()
            if (listed[run] == rows.manifest if run in listed else self._is_unchanged(run, rows))
        ]

    def stale_runs(self) -> list[str]:
        """Return the table's runs that are gone, or that others of the same name have replaced."""
        live = set(self.live_runs())
        return [run for run in self.info.runs if run not in live]

    def _is_unchanged(self, run: str, rows: RunRows) -> bool:
        """Tell whether a run is still the one whose rows were added; reads its manifest again only when that has changed."""
        path = paths.run_dir(self.root, run) / paths.MANIFEST
        try:
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_ino, rows.manifest)
            if self._seen.get(run) != state:
                if manifest_hash(self.root, run) != rows.manifest:
                    return False
                self._seen[run] = state
        except StoreError:
            raise
        except OSError:
            return False
        return True

    @property
    def has_unlisted_rows(self) -> bool:
        """Whether there are rows that the info does not list: a process was killed, or is just about to list them."""
        return self.count != self.info.rows


def _opening(path: AnyPath, work: Callable[[AnyPath], Opened]) -> Opened:
    """Open a Lance table; raises TracesError where its files are gone or damaged."""
    try:
        return work(path)
    except (CorruptRunError, OSError, ValueError, RuntimeError, FileNotFoundError) as e:
        raise TracesError(f"{path} cannot be read ({first_line(e)[:200]}): traces index rebuild makes it again.") from e


async def _open_async(path: AnyPath) -> AsyncTable:
    _check_no_links(path)
    import lancedb

    db = await lancedb.connect_async(str(path.parent), storage_options=lance_options(path))
    return await db.open_table(path.name.removesuffix(".lance"))


def open_lance(path: AnyPath) -> LanceTable:
    """Open an existing Lance table.

    Args:
        path: Its folder.

    Returns:
        The open table.

    Raises:
        CorruptRunError: For a folder that holds more than files and folders. OSError, ValueError or RuntimeError as lancedb does.
    """
    _check_no_links(path)
    return connect(path.parent).open_table(path.name.removesuffix(".lance"))


def connect(folder: AnyPath) -> LanceConnection:
    """Open a folder of Lance tables, creating it if need be."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings while it trains are for its developers
    import lancedb

    folder.mkdir(parents=True, exist_ok=True)
    return lancedb.connect(str(folder), storage_options=lance_options(folder))


def lance_options(place: AnyPath) -> dict[str, str]:
    """Return credentials and endpoint as Lance names them; none for a local path."""
    if not isinstance(place, ObjectPath) or not place.bucket.startswith("s3://"):
        return {}
    names = {
        "KEY_ID": "aws_access_key_id",
        "SECRET": "aws_secret_access_key",
        "SESSION_TOKEN": "aws_session_token",
        "REGION": "aws_region",
    }
    options = s3_options()
    found = {names[name]: value for name, value in options.items() if name in names}
    if "ENDPOINT" in options:
        plain = options["USE_SSL"] == "false"
        found |= {
            "aws_endpoint": f"http{'' if plain else 's'}://{options['ENDPOINT']}",
            "allow_http": str(plain).lower(),
        }
    return found


def remove_files(root: AnyPath, model: str, table: str) -> None:
    """Delete the files of a vector table."""
    delete(paths.vector_info_path(root, model, table))
    delete(paths.vector_files_path(root, model, table))
    delete(paths.vector_lance_path(root, model, table))
    _note_change(root, model, table)


def _note_change(root: AnyPath, model: str, table: str) -> None:
    """Have every catalog of a root in an object store look at the table again."""
    if isinstance(root, ObjectPath):
        object_log.append(root, {object_log.VECTORS: {f"{model}/{table}": uuid.uuid4().hex}})


def new_info(model: str, meta_model: ModelInfo, key: Key, row_shape: tuple[int, ...]) -> TableInfo:
    """Describe a table that does not exist yet.

    Args:
        model: Name of the model's folder.
        meta_model: The model, as a run's manifest describes it.
        key: The tensor that the rows come from.
        row_shape: Shape of a token's row, (D,) or (heads, d_head).

    Returns:
        The info of an empty table.

    Raises:
        UsageError: For a tensor whose rows are not vectors.
    """
    if len(row_shape) not in (1, 2):
        raise UsageError(f"{key.site} has rows of shape {row_shape}, which are not vectors.")
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


def table_of(root: AnyPath, model: str, key: Key) -> VectorTable | None:
    """Open a model's table of a tensor; None where it has none."""
    try:
        return VectorTable(root, read_info(root, model, sites.tensor_name(*key)))
    except FileNotFoundError:
        return None
