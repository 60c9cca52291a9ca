"""The file or folder that an export becomes: written beside its place, then renamed, so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import orjson

from warehouse.catalog.statements import check_target
from warehouse.errors import UsageError
from warehouse.storage.files import delete, delete_stale_temporaries, sync_folder, temporary_beside
from warehouse.storage.objects import AnyPath

INDEX = "index.json"
"""The file of an exported folder that says what is in it, and of which run."""
MADE_BY = "trace-warehouse"
"""What its field `made_by` says: a folder without that is never replaced."""
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


@contextlib.contextmanager
def new_folder(target: Path, root: AnyPath, *, force: bool = False) -> Iterator[Path]:
    """Give a folder to write into, which becomes `target` when the block ends without an error.

    Args:
        target: The folder that is wanted.
        root: The warehouse, which it must not be in.
        force: Whether to replace an export that is there.

    Yields:
        An empty folder beside it.

    Raises:
        UsageError: The folder is there already and is not to be replaced, or has no place to be.
    """
    target = _absolute(target)
    check_target(target, root)
    _check_free_folder(target, force)
    delete_stale_temporaries(target.parent)
    temporary = temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary
        sync_folder(temporary)
        if target.exists():
            before = temporary_beside(target)
            target.rename(before)
            temporary.rename(target)
            delete(before)
        else:
            temporary.rename(target)
        sync_folder(target.parent)
    finally:
        delete(temporary)


@contextlib.contextmanager
def new_file(target: Path, root: AnyPath, *, force: bool = False) -> Iterator[Path]:
    """Give a file to write, which becomes `target` when the block ends without an error.

    Args:
        target: The file that is wanted.
        root: The warehouse, which it must not be in.
        force: Whether to replace a file that is there.

    Yields:
        The path of a file beside it, with the same ending.

    Raises:
        UsageError: There is something of that name already, or no folder for it.
    """
    target = _absolute(target)
    check_target(target, root)
    if target.is_dir():
        raise UsageError(f"{target} is a folder: name a file.")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already: name another file, or add --force.")
    temporary = temporary_beside(target)
    try:
        yield temporary
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def safe_name(text: str) -> str:
    """Return a name for a file or folder: the text itself where every system can have it, else the beginning and a hash of it."""
    if _SAFE.fullmatch(text) and not _RESERVED.fullmatch(text) and not text.endswith("."):
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40].strip("_") or "x"
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _absolute(target: Path) -> Path:
    return Path(os.path.abspath(Path(target).expanduser()))  # noqa: PTH100  links stay as they are


def _check_free_folder(target: Path, force: bool) -> None:
    """Check that a folder is not there, is empty, or is an export that may be replaced.

    Raises:
        UsageError: It is none of these.
    """
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{target} is there already, and is no folder: name another.")
    if not any(target.iterdir()):
        return
    if not _is_export(target):
        raise UsageError(f"{target} is there already, and holds files that are no export: name another folder.")
    if not force:
        raise UsageError(f"{target} is there already: name another folder, or add --force.")


def _is_export(folder: Path) -> bool:
    """Return whether a folder was written by an export."""
    try:
        index = orjson.loads((folder / INDEX).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(index, dict) and index.get("made_by") == MADE_BY
