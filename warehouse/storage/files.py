"""Writing files that are there whole or not at all, and survive a power cut once we say they are."""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import shutil
import stat
import time
from pathlib import Path
from typing import BinaryIO

import filelock
import xxhash

_HOST = xxhash.xxh32_hexdigest(platform.node().encode())
_NUMBERS = itertools.count()
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.tmp", re.DOTALL)
_LONG_AGO = 24 * 3600
"""Seconds after which a temporary file of another host, whose processes cannot be seen from here, counts as left behind."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, fsyncs, and renames over it."""
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
    """Returns a hidden name beside `path` for what is to be renamed to it; it says which process of which host is writing."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{next(_NUMBERS)}.tmp")


def delete_stale_temporaries(folder: Path) -> list[Path]:
    """Deletes the temporary files and folders in `folder` whose process has died, and returns what they were."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    gone = [p for p in folder.iterdir() if _is_left_behind(p)]
    for path in gone:
        delete(path)
    return gone


def _is_left_behind(path: Path) -> bool:
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
    except (OverflowError, PermissionError):  # no number of a process; a process of somebody else
        return False
    return False


def delete(path: Path) -> None:
    """Deletes a file, a folder with all that is in it, or a symbolic link, never what a link leads to. What another process
    is deleting at the same time is no error.
    """
    for _ in range(100):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except FileNotFoundError:  # somebody else was faster with something in it
            continue


def release_lock(lock: filelock.BaseFileLock) -> None:
    """Gives a lock back, and deletes its file first, so that nobody can hold what is deleted: who waits for it looks again."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: a rename or a new file is only safe once its folder is synced."""
    if os.name == "posix":
        sync_file(path)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system cannot do that. Durable on return, but for the name."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
    sync_file(target)


def open_file(path: Path) -> BinaryIO:
    """Opens a file to read its bytes. Raises OSError for what is none: whoever opens a named pipe would wait without end."""
    f = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return f


def read_file(path: Path) -> bytes:
    """Returns a file's bytes. Raises OSError as `open_file` does."""
    with open_file(path) as f:
        return f.read()


def file_checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with open_file(path) as f:
        while chunk := f.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
