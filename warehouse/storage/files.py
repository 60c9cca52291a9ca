"""Files and folders: written whole or not at all, durable on return, deleted without following links."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock
import xxhash

from warehouse.storage.objects import AnyPath, ObjectPath, delete_objects

_HOST = xxhash.xxh32_hexdigest(platform.node().encode())
_NUMBERS = itertools.count()
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.tmp", re.DOTALL)
_LONG_AGO = 24 * 3600
"""Seconds after which a temporary file of another host, whose processes cannot be seen from here, counts as left behind."""


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Write a file whole or not at all: beside `path`, fsynced, then renamed over it."""
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """Return a hidden name beside `path` for a file that will be renamed to it; the name holds the writing host and process."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{next(_NUMBERS)}.tmp")


def delete_stale_temporaries(folder: AnyPath) -> list[Path]:
    """Delete the temporary files and folders in `folder` whose process has died, and return their paths; a store has none."""
    if isinstance(folder, ObjectPath) or folder.is_symlink() or not folder.is_dir():
        return []
    stale = [p for p in folder.iterdir() if _is_left_behind(p)]
    for path in stale:
        delete(path)
    return stale


def _is_left_behind(path: Path) -> bool:
    """Return whether a path is a temporary file of a process that has died."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match[1] != _HOST:
        try:
            return time.time() - path.lstat().st_mtime > _LONG_AGO
        except FileNotFoundError:
            return False
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return True
    except (OverflowError, PermissionError):  # not the number of a process; another user's process
        return False
    return False


def delete(path: AnyPath) -> None:
    """Delete a file, a folder with all that is in it, or a symbolic link, but never the target of a link.

    It is no error if another process is deleting the same at the same time.
    """
    if isinstance(path, ObjectPath):
        delete_objects([path, *path.rglob("*")])
        return
    for _ in range(100):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except FileNotFoundError:  # another process has deleted something in it
            continue


def release_lock(lock: filelock.BaseFileLock) -> None:
    """Delete a lock's file and release the lock, in this order, so that no process can hold a deleted file."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: AnyPath) -> None:
    """Make the names in a folder durable: a rename or a new file is only safe once its folder is synced."""
    if isinstance(path, Path) and os.name == "posix":
        sync_file(path)


def link_or_copy(source: AnyPath, target: Path) -> None:
    """Link a file under another name, or copy it where the file system has no links; durable but for the name."""
    target.unlink(missing_ok=True)
    if isinstance(source, ObjectPath):
        source.download(target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
    sync_file(target)


def open_file(path: AnyPath) -> BinaryIO:
    """Open a file to read its bytes.

    Returns:
        The open file.

    Raises:
        OSError: It cannot be opened, or is not a file; opening a named pipe would wait without end.
    """
    if isinstance(path, ObjectPath):
        return path.open()
    f = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return f


def parquet_source(path: AnyPath) -> Path | BinaryIO:
    """Return what pyarrow reads a Parquet file from: its path, or an object as an open file."""
    return path.open() if isinstance(path, ObjectPath) else path


@contextlib.contextmanager
def on_this_disk(path: AnyPath) -> Iterator[Path]:
    """Give a local file with a file's bytes: itself, or for an object a copy that goes when it is no longer needed."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="trace-warehouse-") as folder:
        path.download(Path(folder) / path.name)
        yield Path(folder) / path.name


def read_file(path: AnyPath) -> bytes:
    """Return a file's bytes; raise OSError as `open_file` does."""
    if isinstance(path, ObjectPath):
        return path.read_bytes()
    with open_file(path) as f:
        return f.read()


def file_checksum(path: AnyPath) -> str:
    """Return the xxh3-128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with open_file(path) as f:
        while chunk := f.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def folder_size(folder: AnyPath) -> int:
    """Return the size of all files below `folder`, in bytes."""
    if isinstance(folder, ObjectPath):
        return sum(found.st_size for _, found in folder.walk())
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
