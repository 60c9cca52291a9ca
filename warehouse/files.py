"""Writing files that are there whole or not at all, and survive a power cut once we say they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import xxhash


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, fsyncs, and renames over it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


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


def file_checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as f:
        while chunk := f.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
