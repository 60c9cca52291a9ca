"""RunWriter: stage a run, journal it, resume it, publish it.

A job hands over `Batch`es, shard by shard; one background thread checks them in, so that the model never waits for the
disk. What lives how long:

    RunWriter   the capture process; holds the run's lock, the journal and the thread
    shard       from `begin_shard` to `end_shard`: one blob file and one Parquet part a table
    Batch       from `put` until the thread has written it; at most `_QUEUED` of them wait

An error in the thread (a full disk, say) stops the capture: the next call of the job raises it. All that a kill can cost
is the shard in progress; `publish` merges the parts, writes the manifest last, and renames the folder into place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import filelock
import numpy as np
import pyarrow as pa
import xxhash

from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.blobs import ShardFile, TensorSpec
from warehouse.storage.files import delete, file_checksum, release_lock, sync_folder
from warehouse.storage.journal import Journal, ShardEntry, StagedFile
from warehouse.storage.manifest import FileInfo, Manifest, StagedRun
from warehouse.storage.parquet import merge_table_files, to_table, write_table_file

_QUEUED = 2

MakeFile = Callable[[Path], None]
"""Writes a file there, durable on return."""


def _nothing() -> None:
    pass


def _no_tables() -> Mapping[str, pa.Table]:
    return {}


@dataclass(frozen=True)
class RecordedBatch:
    """What one forward pass leaves: its sequences' tensors, packed end to end, and its rows of the small tables."""

    sequences: list[tuple[str, int]]
    """(example_id, seq), in the order in which the tensors hold them."""
    tensors: Mapping[Key, np.ndarray]
    """(rows, *row_shape) each."""
    rows: Mapping[Key, list[int]]
    """How many rows of each tensor are each sequence's."""
    tables: Mapping[str, pa.Table]
    deferred_tables: Callable[[], Mapping[str, pa.Table]] = _no_tables
    """More rows of tables, made in the writer's thread."""
    ready: Callable[[], None] = _nothing
    """Called first: waits until the tensors have arrived."""
    release: Callable[[], None] = _nothing
    """Called last: the tensors' memory may be used again."""


@dataclass
class _Shard:
    """The thread's own state of the shard in progress."""

    number: int
    tensors: Mapping[Key, TensorSpec]
    blob: ShardFile | None
    rows: dict[Key, int]
    """So many have come."""
    tables: dict[str, list[pa.Table]] = field(default_factory=dict)


class RunWriter:
    """Use as a context manager: leaving it early keeps what is complete, for the same job to go on from."""

    def __init__(self, root: Path, run_id: str, job: dict[str, Any]) -> None:
        """Opens a new capture, or one that was interrupted.

        Raises UsageError where the name is taken, where another process is writing it, or where an unfinished capture of
        that name had other options or other data than `job` tells of.
        """
        self.root, self.run_id = root, paths.check_run_name(run_id)
        self._staging = paths.staging_dir(root, run_id)
        lock = paths.lock_path(root, run_id)
        self._created_folders = [p for p in lock.parents if not p.exists()]
        self._lock = filelock.FileLock(lock)
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise UsageError(
                f"Another process is capturing run '{run_id}' at this moment. Choose another --run."
            ) from None
        new = not self._staging.exists()
        try:
            with _explain_write_errors(run_id):
                self._open(job)
        except BaseException:
            if new:
                delete(self._staging)
            self._release_name()
            raise
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=_QUEUED)
        self._error: BaseException | None = None
        self._shard: _Shard | None = None
        self._counted_until = time.monotonic()
        self._thread = threading.Thread(target=self._run_queue, name=f"writer of {run_id}", daemon=True)
        self._thread.start()

    # -- opening ---------------------------------------------------------------------------------------------------

    def _open(self, job: dict[str, Any]) -> None:
        for path in self._staging.rglob("*"):
            if path.is_symlink():  # whatever it leads to is not to be written to
                path.unlink()
        if os.path.lexists(paths.run_dir(self.root, self.run_id)):
            delete(self._staging)  # left by a kill between the rename and the clean-up
            raise RunExistsError(self.run_id)
        staged = paths.staged_run(self._staging)
        (staged / paths.BLOBS).mkdir(parents=True, exist_ok=True)
        self._journal = Journal(paths.journal_path(self._staging))
        if self._journal.job is None:
            self._journal.begin(job, datetime.now(UTC))
            sync_folder(self._staging)
        elif differing := sorted(f"{x} ({a!r} then, {b!r} now)" for x, a, b in differences(self._journal.job, job)):
            raise UsageError(
                f"An unfinished capture named '{self.run_id}' differs in {', '.join(differing)}. Finish it with its own "
                f"options, choose another --run, or drop it: traces runs rm {self.run_id}"
            )
        self._drop_incomplete()

    def _drop_incomplete(self) -> None:
        """Deletes what no journal line vouches for. Raises where a file that one does is not what it was."""
        safe: dict[str, StagedFile] = {}
        for entry in self._journal.shards:
            safe |= entry.files
        for path in self._staging.rglob("*"):
            relative = path.relative_to(self._staging).as_posix()
            if path.is_file() and path != self._journal.path and relative not in safe:
                path.unlink()
        for relative, known in safe.items():
            path = self._staging / relative
            there = path.is_file() and path.stat().st_size == known.bytes
            if not there or (known.checksum and file_checksum(path) != known.checksum):
                raise TracesError(
                    f"{path} of the unfinished capture '{self.run_id}' is gone or changed. "
                    f"Start over: traces runs rm {self.run_id}"
                )

    @property
    def done(self) -> list[ShardEntry]:
        """The shards that are complete, those of earlier processes included."""
        return self._journal.shards

    @property
    def promoted(self) -> dict[str, str]:
        """Tensors (by name) whose values outgrew their dtype, and what they are stored in."""
        return dict(self._journal.promoted)

    # -- writing: called by the job --------------------------------------------------------------------------------

    def begin_shard(self, rows: Mapping[Key, int], tensors: Mapping[Key, TensorSpec]) -> None:
        """Starts the next shard: so many rows of every tensor will come."""
        self._hand_over(lambda: self._begin(dict(rows), dict(tensors)))

    def put(self, batch: RecordedBatch) -> None:
        """Hands a batch over. Waits only while `_QUEUED` others do."""
        self._hand_over(lambda: self._write_batch(batch))

    def end_shard(self, resume_point: str) -> None:
        """Completes the shard; `mark` is the job's note of where in its data it stands."""
        self._hand_over(lambda: self._complete(resume_point))

    def adopt(self, resume_point: str, blobs: Mapping[str, MakeFile], tables: Mapping[str, MakeFile]) -> None:
        """Takes files that are made elsewhere as a complete shard: blobs by the name that they get in the run, and parts of
        tables. Not to be mixed with shards that are written here.
        """
        self._wait()
        with _explain_write_errors(self.run_id):
            staged, made = paths.staged_run(self._staging), dict[Path, MakeFile]()
            made |= {staged / name: make for name, make in blobs.items()}
            number = len(self._journal.shards)
            made |= {paths.staged_table_path(self._staging, name, number): make for name, make in tables.items()}
            for path, make in made.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
            self._journal_shard(list(made), resume_point)

    def promote(self, tensors: dict[str, str]) -> None:
        """Drops the shard in progress, and has these tensors stored in wider dtypes from its start on."""
        self._hand_over(self._abandon)
        self._wait()
        self._journal.promote(tensors)

    def discard(self) -> None:
        """Drops the capture and all that is staged of it."""
        self._hand_over(self._abandon)
        self._wait()
        delete(self._staging)

    def _hand_over(self, work: Callable[[], None]) -> None:
        self._raise_error()
        self._queue.put(work)

    def _wait(self) -> None:
        self._queue.join()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            with _explain_write_errors(self.run_id):
                raise self._error

    # -- writing: in the thread ------------------------------------------------------------------------------------

    def _run_queue(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as e:  # handed to the job by its next call
                    self._error = e
            del work  # lets go of the batch before the next one is waited for
            self._queue.task_done()
        self._queue.task_done()

    def _begin(self, rows: dict[Key, int], tensors: dict[Key, TensorSpec]) -> None:
        number = len(self._journal.shards)
        blob = None
        if any(rows.values()):
            path = paths.staged_run(self._staging) / paths.blob_file(number)
            named = {sites.tensor_name(*key): spec for key, spec in tensors.items()}
            blob = ShardFile(path, named, {sites.tensor_name(*key): n for key, n in rows.items()})
        self._shard = _Shard(number, tensors, blob, dict.fromkeys(tensors, 0))

    def _write_batch(self, batch: RecordedBatch) -> None:
        shard = self._current()
        if batch.tensors.keys() != shard.tensors.keys():
            raise ValueError(f"the batch's tensors are not its shard's: {batch.tensors.keys() ^ shard.tensors.keys()}")
        batch.ready()
        tables = {**batch.tables, **batch.deferred_tables()}
        if shard.blob is not None and any(len(array) for array in batch.tensors.values()):
            for key, array in batch.tensors.items():
                shard.blob.put(sites.tensor_name(*key), shard.rows[key], array)
            if batch.sequences:  # a tensor that is no example's is not in the index
                tables["tensors"] = _index(batch, shard)
            for key, array in batch.tensors.items():
                shard.rows[key] += len(array)
        batch.release()
        for name, rows in tables.items():
            shard.tables.setdefault(name, []).append(rows)

    def _complete(self, mark: str) -> None:
        shard = self._current()
        written = []
        if shard.blob is not None:
            shard.blob.close()
            written.append(shard.blob.path)
        for name, tables in shard.tables.items():
            path = paths.staged_table_path(self._staging, name, shard.number)
            write_table_file(path, pa.concat_tables(tables))
            written.append(path)
        self._journal_shard(written, mark)
        self._shard = None

    def _journal_shard(self, written: list[Path], mark: str) -> None:
        """Journals that these files are a complete shard."""
        for folder in {p.parent for p in written}:
            sync_folder(folder)
        files = {
            p.relative_to(self._staging).as_posix(): StagedFile(
                bytes=p.stat().st_size, checksum=None if p.suffix == ".safetensors" else file_checksum(p)
            )
            for p in written
        }
        now = time.monotonic()
        number = len(self._journal.shards)
        self._journal.complete(
            ShardEntry(shard=number, resume_point=mark, seconds=now - self._counted_until, files=files)
        )
        self._counted_until = now

    def _abandon(self) -> None:
        if self._shard is not None and self._shard.blob is not None:
            self._shard.blob.abandon()
        self._shard = None

    def _current(self) -> _Shard:
        if self._shard is None:
            raise ValueError("no shard has begun")
        return self._shard

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, describe: Callable[[StagedRun], Manifest]) -> Manifest:
        """Merges the parts, writes the manifest that `describe` makes and renames the run into place.

        Raises UsageError where a run of that name has appeared meanwhile; the capture stays staged.
        """
        self._wait()
        with _explain_write_errors(self.run_id):
            staged = paths.staged_run(self._staging)
            rows, files = {}, []
            for name in STORED:
                shards = range(len(self.done))
                parts = [p for i in shards if (p := paths.staged_table_path(self._staging, name, i)).exists()]
                rows[name] = 0
                if parts:
                    target = staged / paths.table_file(name)
                    rows[name] = merge_table_files(name, parts, target, self._staging / "sort")
                    files.append(_file_info(staged, target, checksum=True))
            blobs = sorted((staged / paths.BLOBS).iterdir())
            files += [_file_info(staged, p, checksum=False) for p in blobs]
            seconds = sum(s.seconds for s in self.done) + time.monotonic() - self._counted_until
            created = self._journal.created_at
            assert created is not None  # the journal has begun
            manifest = describe(StagedRun(staged, rows, files, created, seconds, self.promoted))
            manifest.write(staged)
            for folder in {(staged / f.path).parent for f in files}:
                sync_folder(folder)
            try:
                staged.rename(paths.run_dir(self.root, self.run_id))
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise UsageError(f"Run '{self.run_id}' has appeared while this one was captured. Nothing is lost: delete or "
                                 "rename that folder, and run the same command again.") from None  # fmt: skip
            sync_folder(self.root)
            delete(self._staging)
        return manifest

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._abandon()
        if error is not None and not self.done:
            delete(self._staging)  # there is nothing to go on from
        self._release_name()

    def _release_name(self) -> None:
        """Gives the run's name back; folders that this writer made, and that are empty, go."""
        release_lock(self._lock)
        for folder in () if self._staging.exists() else self._created_folders:
            with contextlib.suppress(OSError):  # it has something in it
                folder.rmdir()


def _index(batch: RecordedBatch, shard: _Shard) -> pa.Table:
    """The `tensors` rows of a batch: where each slice lies, and its checksum."""
    columns: dict[str, list[Any]] = {name: [] for name in STORED["tensors"].names if name != "run_id"}
    for key, array in batch.tensors.items():
        name, spec, at = sites.tensor_name(*key), shard.tensors[key], shard.rows[key]
        octets, start = array.reshape(len(array), -1).view(np.uint8), 0
        for (example_id, seq), n in zip(batch.sequences, batch.rows[key], strict=True):
            values = {
                "example_id": example_id,
                "seq": seq,
                "side": key.side,
                "site": key.site,
                "layer": key.layer,
                "blob": paths.blob_file(shard.number),
                "tensor": name,
                "row_start": at + start,
                "row_end": at + start + n,
                "dtype": spec.dtype,
                "shape": [n, *spec.row_shape],
                "checksum": xxhash.xxh3_64_hexdigest(octets[start : start + n]),
            }
            for column, value in values.items():
                columns[column].append(value)
            start += n
    return to_table("tensors", columns)


def _file_info(folder: Path, path: Path, checksum: bool) -> FileInfo:
    return FileInfo(
        path=path.relative_to(folder).as_posix(),
        bytes=path.stat().st_size,
        checksum=file_checksum(path) if checksum else None,
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of what two jobs differ in, with both values."""
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from ((f"{key}.{name}", x, y) for name, x, y in differences(a, b))
        elif a != b:
            yield key, a, b


@contextlib.contextmanager
def _explain_write_errors(run_id: str) -> Iterator[None]:
    """Tells a full disk and its kin as one line, with what to do; our own errors pass as they are."""
    try:
        yield
    except (OSError, duckdb.IOException, pa.ArrowException) as e:
        full = getattr(e, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(e)
        cause = "The disk is full" if full else f"Writing failed: {e}"
        remedy = "Free some space, then run" if full else "Run"
        raise TracesError(
            f"{cause}; the capture '{run_id}' has stopped. What was complete is kept. {remedy} the same command again to go on."
        ) from e
