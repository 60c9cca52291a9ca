"""RunUpload: how a run that is staged on this machine gets into an object store, and is published there.

One writer at a time has a run's name: it puts an object under `writers/`, which it finds again when it resumes, and which any other
writer is refused by. Safetensors files are uploaded as they are complete, in a thread of their own, and then deleted here; tables
follow at the end. Publishing is putting `run.json` where nothing is: nobody sees the run before, and of two that got so far one wins.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import xxhash

from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.storage import object_log, paths, strict_json
from warehouse.storage.files import delete
from warehouse.storage.objects import ObjectPath, below

_TRIES = 10
"""How often a name is asked for that another lets go of in the same moment."""
_PENDING = 2
"""Files that wait for their upload, at most: the disk holds these, and the shard in progress."""


class RunUpload:
    """A run's way into an object store. `close` it; it is no error to close it twice."""

    def __init__(self, root: ObjectPath, run_id: str) -> None:
        folder, claim = paths.run_dir(root, run_id), paths.writer_path(root, run_id)
        assert isinstance(folder, ObjectPath)
        assert isinstance(claim, ObjectPath)
        self.run_id, self._root, self._folder, self._claim = run_id, root, folder, claim
        self._content = b""
        self._thread = ThreadPoolExecutor(1, f"upload of {run_id}")
        self._pending: list[Future[None]] = []

    @property
    def is_published(self) -> bool:
        """Whether there is a run of that name already."""
        return (self._folder / paths.MANIFEST).is_file()

    def claim(self, journal: Path) -> None:
        """Take the run's name, or find that it is taken by this very capture.

        Args:
            journal: The capture's journal, which has begun: its first line and its place tell it from every other capture.

        Raises:
            UsageError: Another capture has the name.
            RunExistsError: Another capture has published a run of that name in this moment.
        """
        with journal.open("rb") as f:
            first = f.readline()
        me = xxhash.xxh3_128_hexdigest(first + f"\n{platform.node()}\n{journal.absolute()}".encode())
        self._content = json.dumps({"capture": me, "host": platform.node()}).encode()
        for _ in range(_TRIES):
            if self._claim.put_new(self._content):
                break
            with contextlib.suppress(FileNotFoundError):  # the other has just let go of it
                raise UsageError(
                    f"Run '{self.run_id}' is being captured on {_host(self._claim.read_bytes())}, or was and is unfinished. Choose "
                    f"another --run; or, if that capture is dead: traces runs rm {self.run_id}"
                )
        if self.is_published:  # between the first look and the claim
            self.give_up()
            raise RunExistsError(self.run_id)

    def add(self, name: str, source: Path) -> None:
        """Upload a file and delete it here, while others are written.

        Args:
            name: Its path in the run's folder.
            source: The file, which is complete. What fails is raised by a later call.
        """
        while len(self._pending) >= _PENDING:
            self._pending.pop(0).result()
        self._pending.append(self._thread.submit(self._upload, name, source))

    def put(self, name: str, source: Path) -> None:
        """Upload a file, which stays here.

        Raises:
            TracesError: It did not arrive whole.
        """
        target, size = self._folder / name, source.stat().st_size
        target.upload(source)
        if (arrived := target.stat().st_size) != size:
            raise TracesError(f"{target} has {arrived} bytes, not {size}: it did not arrive whole.")

    def copy(self, name: str, source: ObjectPath) -> None:
        """Copy an object of the same store to a path in the run's folder."""
        source.copy_to(self._folder / name)

    def size(self, name: str) -> int:
        """Return the bytes of what lies at a path in the run's folder; -1 where there is nothing."""
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return -1

    def wait(self) -> None:
        """Wait until all files are uploaded; raises what failed."""
        while self._pending:
            self._pending.pop(0).result()

    def publish(self, staged: Path, files: Mapping[str, int], manifest: bytes, keep: bool = False) -> None:
        """Upload what is still here, hold what the store has against the list of files, and put the manifest.

        Args:
            staged: The run's folder here.
            files: The run's files and their sizes.
            manifest: The content of run.json.
            keep: Whether the files have been put, and stay here.

        Raises:
            UsageError: Another run has taken the name.
            TracesError: A file is not in the store as it should be.
        """
        self.wait()
        for name in () if keep else files:
            if (staged / name).is_file():
                self._upload(name, staged / name)
        there = {below(path, self._folder): found.st_size for path, found in self._folder.walk()}
        for name in there.keys() - files.keys() - {paths.MANIFEST}:  # of a capture that was dropped while it uploaded
            (self._folder / name).unlink()
        if wrong := sorted(name for name, size in files.items() if there.get(name) != size):
            raise TracesError(f"{self._folder / wrong[0]} did not arrive whole. Run the same command again.")
        object_log.announce(self._root, self.run_id)
        mine = self._claim.is_file() and self._claim.read_bytes() == self._content
        if not mine or not (self._folder / paths.MANIFEST).put_new(manifest):
            raise UsageError(
                f"Run '{self.run_id}' was dropped or has appeared while this one was captured. What is staged is kept: run the same "
                "command again, or choose another --run."
            )
        self.give_up()

    def discard(self) -> None:
        """Delete what was uploaded of a run that is dropped, and let go of its name."""
        if (
            self._content
            and self._claim.is_file()
            and self._claim.read_bytes() == self._content
            and not self.is_published
        ):
            delete(self._folder)
            self.give_up()

    def give_up(self) -> None:
        """Let go of the run's name."""
        self._claim.unlink()

    def close(self) -> None:
        """End the thread, once it has done what it was given."""
        self._thread.shutdown()

    def _upload(self, name: str, source: Path) -> None:
        self.put(name, source)
        source.unlink()


def _host(claim: bytes) -> str:
    """Return the name of the machine that a claim is of."""
    try:
        return str(strict_json.parse(claim)["host"])
    except (ValueError, KeyError, TypeError):
        return "another machine"
