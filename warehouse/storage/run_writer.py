"""RunWriter: stage a run, journal it, resume it, publish it.

A job hands over batches, shard by shard; one background thread writes them, so that the model never waits for the disk.
What lives how long:

    RunWriter       the capture process; holds the run's lock, the journal and the thread
    OpenShard       from `begin_shard` to `end_shard`: one safetensors file and one Parquet file a table
    RecordedBatch   from `put` until the thread has written it, which has at most `_IN_FLIGHT` of them

An error in the thread (a full disk, say) stops the capture: the job's next call raises it. A kill loses only the shard in
progress. `publish` merges the shards' tables, writes the manifest last, and renames the folder into place; where the warehouse
lies in an object store, `RunUpload` brings it there and puts the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import filelock
import pyarrow as pa

from warehouse.errors import RunExistsError, TracesError, UsageError, without_number
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.files import delete, file_checksum, link_or_copy, release_lock, sync_file, sync_folder
from warehouse.storage.journal import Journal, ShardEntry, StagedFile
from warehouse.storage.manifest import FileInfo, Manifest, StagedRun
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.storage.open_shard import OpenShard, RecordedBatch
from warehouse.storage.parquet import merge_table_parts
from warehouse.storage.run_upload import RunUpload

_IN_FLIGHT = 3
"""The most pieces of work that the thread has at once: one that it does, and two that wait."""

_SUMS = "sums/"
"""The folder, beside the run's, of the file that a resumed job goes on from."""

_RUN = "run/"
"""The folder that becomes the run's, in its staging folder."""

MakeFile = Callable[[Path], None]
"""Writes a file at a path, durable on return."""


class RunWriter:
    """A run being written. Use it as a context manager: leaving early keeps what is complete, for the same job to resume."""

    def __init__(self, root: AnyPath, run_id: str, job: dict[str, Any]) -> None:
        """Open a new capture, or one that was interrupted.

        Args:
            root: The warehouse.
            run_id: The run's name.
            job: The identity of the job: JSON values that must be the same for it to resume.

        Raises:
            UsageError: The name cannot name a run, another process is writing that run, or an unfinished capture of that
                name had another identity.
            RunExistsError: A run of that name is published.
        """
        self.root, self.run_id = root, paths.check_run_name(run_id)
        self._staging = paths.staging_dir(root, run_id)
        self._upload = RunUpload(root, run_id) if isinstance(root, ObjectPath) else None
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
                self._delete_staged()
            self._release_name()
            raise
        # Queues written in C: Ctrl-C in the midst of a `queue.Queue`'s own Python leaves its thread waiting for ever.
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_IN_FLIGHT):
            self._places.put(None)
        self._error: BaseException | None = None
        self._shard: OpenShard | None = None
        self._counted_until = time.monotonic()
        self._thread = threading.Thread(target=self._run_queue, name=f"writer of {run_id}", daemon=True)
        self._thread.start()

    # -- opening ---------------------------------------------------------------------------------------------------

    def _open(self, job: dict[str, Any]) -> None:
        """Begin the journal, or check that the one on disk is of this job.

        Raises:
            RunExistsError: A run of that name is published.
            UsageError: The journal is of another job.
        """
        for path in self._staging.rglob("*"):
            if path.is_symlink():  # the file that it leads to is not ours to write
                path.unlink()
        folder = paths.run_dir(self.root, self.run_id)
        if self._upload.is_published if self._upload is not None else os.path.lexists(str(folder)):
            delete(self._staging)  # left by a kill between the commit and the clean-up
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
        if self._upload is not None:
            self._upload.claim(self._journal.path)
        self._drop_incomplete()

    def _drop_incomplete(self) -> None:
        """Delete the files that no journal line names.

        Raises:
            TracesError: A file that a line names is missing or changed.
        """
        safe: dict[str, StagedFile] = {}
        for entry in self._journal.shards:
            safe = {name: file for name, file in safe.items() if not name.startswith(_SUMS)} | entry.files
        for path in self._staging.rglob("*"):
            relative = path.relative_to(self._staging).as_posix()
            if path.is_file() and path != self._journal.path and relative not in safe:
                path.unlink()
        for relative, known in safe.items():
            path = self._staging / relative
            if self._upload is not None and path.suffix == ".safetensors":
                if path.is_file():
                    self._upload.add(relative.removeprefix(_RUN), path)  # perhaps again
                elif self._upload.size(relative.removeprefix(_RUN)) == known.bytes:
                    continue
            whole = path.is_file() and path.stat().st_size == known.bytes
            if not whole or (known.checksum and file_checksum(path) != known.checksum):
                raise TracesError(
                    f"{path} of the unfinished capture '{self.run_id}' is gone or changed. "
                    f"Start over: traces runs rm {self.run_id}"
                )

    @property
    def done(self) -> list[ShardEntry]:
        """The complete shards, those of earlier processes included."""
        return self._journal.shards

    @property
    def promoted(self) -> dict[str, str]:
        """The tensors (by name) with a value that their dtype cannot hold, and the dtype that they are stored in."""
        return dict(self._journal.promoted)

    @property
    def sums(self) -> Path | None:
        """The file that the last complete shard was left with; None: it has none."""
        names = [name for name in (self.done[-1].files if self.done else ()) if name.startswith(_SUMS)]
        return self._staging / names[0] if names else None

    # -- writing: called by the job --------------------------------------------------------------------------------

    def begin_shard(self, rows: Mapping[Key, int], tensors: Mapping[Key, TensorSpec]) -> None:
        """Start the next shard.

        Args:
            rows: How many rows of every tensor will come.
            tensors: The dtype and row shape of every tensor.
        """
        counts, specs = dict(rows), dict(tensors)
        self._hand_over(lambda: self._begin(counts, specs))

    def put(self, batch: RecordedBatch) -> None:
        """Hand a batch over to the thread; waits only while it has `_IN_FLIGHT` others."""
        self._hand_over(lambda: self._current().write(batch))

    def end_shard(self, resume_point: str, sums: Callable[[Path], None] | None = None) -> None:
        """Complete the shard.

        Args:
            resume_point: The job's note of where in its data it stands, for a later process to resume from.
            sums: Writes what the job has summed over all shards so far to a file, which takes the place of the one before and is no
                part of the run; waits until it is written.
        """
        self._hand_over(lambda: self._complete(resume_point, sums))
        if sums is not None:
            self._wait()

    def adopt(self, resume_point: str, blobs: Mapping[str, MakeFile | AnyPath], tables: Mapping[str, MakeFile]) -> None:
        """Add a complete shard of files that are made elsewhere; not to be mixed with shards that are written here.

        Args:
            resume_point: As for `end_shard`.
            blobs: What makes each safetensors file, by its path in the run's folder; or the file that it is to equal.
            tables: What makes the part of each table, as `write_part` does.
        """
        self._wait()
        with _explain_write_errors(self.run_id):
            staged, files = paths.staged_run(self._staging), dict[Path, MakeFile]()
            copied = {}
            for name, blob in blobs.items():
                if self._upload is not None and isinstance(blob, ObjectPath):
                    self._upload.copy(name, blob)
                    copied[f"{_RUN}{name}"] = StagedFile(bytes=self._upload.size(name), checksum=None)
                else:
                    files[staged / name] = partial(link_or_copy, blob) if isinstance(blob, AnyPath) else blob
            number = len(self._journal.shards)
            files |= {paths.staged_table_path(self._staging, name, number): make for name, make in tables.items()}
            for path, make in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
            self._journal_shard(list(files), resume_point, copied)

    def promote(self, tensors: dict[str, str]) -> None:
        """Drop the shard in progress, and store these tensors in wider dtypes from its start on.

        Args:
            tensors: The new dtype of each tensor, by its name.
        """
        self._hand_over(self._abandon)
        self._wait()
        self._journal.promote(tensors)

    def discard(self) -> None:
        """Drop the capture and delete all that is staged of it."""
        self._hand_over(self._abandon)
        self._wait()
        self._delete_staged()

    def _delete_staged(self) -> None:
        """Delete all that is staged, and what of it is in an object store already."""
        if self._upload is not None:
            self._upload.close()
            self._upload.discard()
        delete(self._staging)

    def _hand_over(self, work: Callable[[], None]) -> None:
        self._raise_error()
        self._places.get()
        self._work.put(work)

    def _wait(self) -> None:
        for _ in range(_IN_FLIGHT):
            self._places.get()
        for _ in range(_IN_FLIGHT):
            self._places.put(None)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            with _explain_write_errors(self.run_id):
                raise self._error

    # -- writing: in the thread ------------------------------------------------------------------------------------

    def _run_queue(self) -> None:
        while (work := self._work.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as e:  # handed to the job by its next call
                    self._error = e
            del work  # lets go of the batch before the next one is waited for
            self._places.put(None)

    def _begin(self, rows: dict[Key, int], tensors: dict[Key, TensorSpec]) -> None:
        self._shard = OpenShard(self._staging, len(self._journal.shards), rows, tensors)

    def _current(self) -> OpenShard:
        """Return the shard in progress.

        Raises:
            ValueError: There is none.
        """
        if self._shard is None:
            raise ValueError("no shard has begun")
        return self._shard

    def _complete(self, resume_point: str, sums: Callable[[Path], None] | None) -> None:
        shard, before = self._current(), self.sums
        written = shard.complete()
        if sums is not None:
            path = self._staging / f"{_SUMS}{shard.number}"
            path.parent.mkdir(exist_ok=True)
            sums(path)
            sync_file(path)
            written.append(path)
        self._journal_shard(written, resume_point)
        if before is not None:
            before.unlink()
        self._shard = None

    def _journal_shard(
        self, written: list[Path], resume_point: str, copied: Mapping[str, StagedFile] | None = None
    ) -> None:
        """Journal that these files are a complete shard, with those that were copied within an object store."""
        for folder in {p.parent for p in written}:
            sync_folder(folder)
        stays = self._upload is None
        files = {
            p.relative_to(self._staging).as_posix(): StagedFile(
                bytes=p.stat().st_size, checksum=None if stays and p.suffix == ".safetensors" else file_checksum(p)
            )
            for p in written
        } | dict(copied or {})
        now = time.monotonic()
        number = len(self._journal.shards)
        self._journal.complete(
            ShardEntry(shard=number, resume_point=resume_point, seconds=now - self._counted_until, files=files)
        )
        self._counted_until = now
        if self._upload is not None:
            for path in written:
                if path.suffix == ".safetensors":
                    self._upload.add(path.relative_to(paths.staged_run(self._staging)).as_posix(), path)

    def _abandon(self) -> None:
        if self._shard is not None:
            self._shard.abandon()
        self._shard = None

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, describe: Callable[[StagedRun], Manifest]) -> Manifest:
        """Merge the shards' tables, write the manifest and rename the run into place.

        Args:
            describe: Makes the manifest from what the writer knows of the run.

        Returns:
            The manifest.

        Raises:
            UsageError: A run of that name has appeared meanwhile; the capture stays staged.
            OSError: The rename fails for another reason; a full disk and the like are TracesError.
        """
        self._wait()
        with _explain_write_errors(self.run_id):
            staged = paths.staged_run(self._staging)
            rows, files = self._merge_tables(staged)
            blobs = {
                name.removeprefix(_RUN): file
                for entry in self.done
                for name, file in sorted(entry.files.items())
                if name.startswith(f"{_RUN}{paths.BLOBS}/")
            }
            files += [FileInfo(path=name, bytes=file.bytes) for name, file in blobs.items()]
            checksums = {name: file.checksum for name, file in blobs.items() if file.checksum}
            seconds = sum(s.seconds for s in self.done) + time.monotonic() - self._counted_until
            created = self._journal.created_at
            assert created is not None  # the journal has begun
            manifest = describe(StagedRun(staged, rows, files, created, seconds, self.promoted, checksums))
            if self._upload is not None:
                self._upload.publish(staged, {f.path: f.bytes for f in files}, manifest.to_bytes())
                delete(self._staging)
                return manifest
            manifest.write(staged)
            for folder in {(staged / f.path).parent for f in files}:
                sync_folder(folder)
            try:
                staged.rename(str(paths.run_dir(self.root, self.run_id)))
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise UsageError(f"Run '{self.run_id}' has appeared while this one was captured. Nothing is lost: delete or "
                                 "rename that folder, and run the same command again.") from None  # fmt: skip
            sync_folder(self.root)
            delete(self._staging)
        return manifest

    def _merge_tables(self, staged: Path) -> tuple[dict[str, int], list[FileInfo]]:
        """Merge the shards' files of each table into one; return each table's number of rows, and the files."""
        rows, files = dict.fromkeys(STORED, 0), []
        for name in STORED:
            sources = [paths.staged_table_path(self._staging, name, i) for i in range(len(self.done))]
            if sources := [path for path in sources if path.exists()]:
                target = staged / paths.table_file(name)
                rows[name] = merge_table_parts(name, sources, target)
                files.append(_file_info(staged, target, checksum=True))
        return rows, files

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.put(None)
        self._thread.join()
        self._abandon()
        if self._upload is not None:
            self._upload.close()
        if error is not None and not self.done:
            self._delete_staged()  # there is nothing to resume from
        self._release_name()

    def _release_name(self) -> None:
        """Let go of the run's name, and remove the empty folders that this writer created."""
        release_lock(self._lock)
        for folder in () if self._staging.exists() else self._created_folders:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _file_info(folder: Path, path: Path, checksum: bool) -> FileInfo:
    return FileInfo(
        path=path.relative_to(folder).as_posix(),
        bytes=path.stat().st_size,
        checksum=file_checksum(path) if checksum else None,
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what two jobs differ in: the dotted name, and both values."""
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from ((f"{key}.{name}", x, y) for name, x, y in differences(a, b))
        elif a != b:
            yield key, a, b


@contextlib.contextmanager
def _explain_write_errors(run_id: str) -> Iterator[None]:
    """Raise TracesError, with what to do, in place of errors of a full or failing disk; errors of this package pass as they are."""
    try:
        yield
    except (OSError, duckdb.IOException, pa.ArrowException) as e:
        full = getattr(e, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(e)
        cause = "The disk is full" if full else f"Writing failed: {without_number(e)}"
        remedy = "Free some space, then run" if full else "Run"
        raise TracesError(
            f"{cause}; the capture '{run_id}' has stopped. What was complete is kept. {remedy} the same command again to go on."
        ) from e
