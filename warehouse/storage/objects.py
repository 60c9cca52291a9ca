"""ObjectPath: a place in an object store, used as a `pathlib.Path` is, for warehouses that lie at `s3://…`, `gs://…` or `az://…`.

An object is written whole or not at all, and a folder is nothing but the beginning of its objects' names. What a local warehouse
does by a rename, one in a store does by `put_new`, of which exactly one of many succeeds. Requests are tried again a few times over
errors that may pass; what remains is a `StoreError`.

Credentials come from the environment and the provider's own files; nothing of them is kept.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

from warehouse.errors import UsageError
from warehouse.storage.s3_credentials import credential_provider
from warehouse.storage.store_errors import os_errors

if TYPE_CHECKING:
    from collections.abc import Buffer, Sequence

SCHEMES = ("s3://", "gs://", "az://", "memory://")
"""Beginnings of the addresses of object stores."""

_PIECE = 8 << 20
"""Bytes of an object that are uploaded, or read ahead, at a time."""
_TRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
"""How often, and for how long, the store is asked again over an error of its own or a connection that broke."""
_PATIENCE = {"timeout": "24h", "read_timeout": "120s"}
"""How long a request may take: a large object over a slow line takes hours, but its bytes never stop for minutes."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or a folder of objects: its bucket, such as `s3://bucket`, and its name there."""

    bucket: str
    key: PurePosixPath

    @classmethod
    def parse(cls, address: str) -> ObjectPath:
        """Read an address such as `s3://bucket/folder`.

        Returns:
            The place.

        Raises:
            UsageError: It names no bucket, or a folder that leads elsewhere.
        """
        scheme, _, rest = address.partition("://")
        bucket, _, key = rest.partition("/")
        if not bucket or ".." in key.split("/"):
            raise UsageError(f"'{address}' is no place in an object store: write {scheme}://BUCKET/FOLDER.")
        return cls(f"{scheme}://{bucket}", PurePosixPath(key.strip("/")))

    def __str__(self) -> str:
        return f"{self.bucket}/{self._name}".rstrip("/")

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.bucket, self.key / name)

    @property
    def _name(self) -> str:
        """Its name in the bucket; empty for the bucket itself."""
        return "" if self.key == PurePosixPath() else str(self.key)

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.key.name

    @property
    def suffix(self) -> str:
        """The end of its name, such as `.parquet`."""
        return self.key.suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that it is in."""
        return ObjectPath(self.bucket, self.key.parent)

    def relative_to(self, folder: ObjectPath) -> PurePosixPath:
        """Return its path below a folder; ValueError where it is not there."""
        if self.bucket != folder.bucket:
            raise ValueError(f"{self} is not below {folder}")
        return self.key.relative_to(folder.key)

    def as_posix(self) -> str:
        """Return its address."""
        return str(self)

    def absolute(self) -> ObjectPath:
        """Return itself: addresses are whole."""
        return self

    resolve = expanduser = absolute

    # -- asking ----------------------------------------------------------------------------------------------------

    def stat(self) -> ObjectStat:
        """Return an object's size, time and signature; FileNotFoundError where there is none."""
        with _os_errors(self):
            import obstore

            return _stat(obstore.head(_store(self.bucket), self._name))

    lstat = stat

    def is_file(self) -> bool:
        """Return whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether there is an object below."""
        return next(self.rglob("*"), None) is not None

    def exists(self) -> bool:
        """Return whether there is such an object, or one below."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Return False: a store has no links."""
        return False

    def iterdir(self) -> Iterator[ObjectPath]:
        """Return what is in a folder, objects and folders."""
        with _os_errors(self):
            import obstore

            found = obstore.list_with_delimiter(_store(self.bucket), f"{self._name}/" if self._name else None)
        names = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return iter([ObjectPath(self.bucket, PurePosixPath(name)) for name in sorted(names)])

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Return what is in a folder and has a name of this pattern."""
        return (p for p in self.iterdir() if fnmatchcase(p.name, pattern))

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Return all objects below whose name is of this pattern."""
        return (path for path, _ in self.walk() if fnmatchcase(path.name, pattern))

    def walk(self) -> Iterator[tuple[ObjectPath, ObjectStat]]:
        """Return all objects below, with what `stat` says of them, in one request a thousand."""
        with _os_errors(self):
            import obstore

            prefix = f"{self._name}/" if self._name else None
            for some in obstore.list(_store(self.bucket), prefix, chunk_size=1000):
                for found in some:
                    yield ObjectPath(self.bucket, PurePosixPath(found["path"])), _stat(found)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return an object's bytes."""
        with _os_errors(self):
            import obstore

            return bytes(obstore.get(_store(self.bucket), self._name).bytes())

    def read_start(self, most: int) -> tuple[memoryview, int]:
        """Return the first bytes of an object, `most` at most, and its size, in one request."""
        with _os_errors(self):
            import obstore

            answer = obstore.get(_store(self.bucket), self._name, options={"range": (0, most)})
            return memoryview(answer.bytes()), answer.meta["size"]

    def read_range(self, start: int, end: int) -> memoryview:
        """Return an object's bytes from `start` to `end`, in one request."""
        with _os_errors(self):
            import obstore

            return memoryview(obstore.get_range(_store(self.bucket), self._name, start=start, end=end))

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open an object to read its bytes, piece by piece."""
        assert mode == "rb"
        return io.BufferedReader(_Reader(self))

    def download(self, target: Path) -> None:
        """Write an object's bytes to a local file, durable on return but for its name."""
        with _os_errors(self):
            import obstore

            with target.open("wb") as f:
                for piece in obstore.get(_store(self.bucket), self._name).stream(min_chunk_size=_PIECE):
                    f.write(piece)
                f.flush()
                os.fsync(f.fileno())

    # -- writing ---------------------------------------------------------------------------------------------------

    def write_bytes(self, content: Buffer) -> None:
        """Write an object, in the place of the one that there is."""
        with _os_errors(self):
            import obstore

            obstore.put(_store(self.bucket), self._name, content, use_multipart=False)

    def put_new(self, content: bytes) -> bool:
        """Write an object where there is none; of many who do so at once, one succeeds.

        Args:
            content: Bytes that no other writer's are equal to: by them an object is known for this writer's own where the
                answer to writing it was lost.

        Returns:
            Whether the object is this writer's.
        """
        with _os_errors(self):
            import obstore
            from obstore.exceptions import AlreadyExistsError

            try:
                obstore.put(_store(self.bucket), self._name, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                with contextlib.suppress(FileNotFoundError):  # it was deleted since
                    return self.read_bytes() == content
                return False
        return True

    def upload(self, source: Path) -> None:
        """Write a local file's bytes, a few pieces in memory at a time."""
        with _os_errors(self):
            import obstore

            obstore.put(_store(self.bucket), self._name, source, chunk_size=_PIECE, max_concurrency=4)

    def copy_to(self, target: ObjectPath) -> None:
        """Copy an object within its bucket, without the bytes coming here."""
        with _os_errors(self):
            import obstore

            obstore.copy(_store(self.bucket), self._name, target._name)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object; no store says whether there was one."""
        delete_objects([self])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as something is in it."""


AnyPath = Path | ObjectPath
"""A file or a folder of a warehouse, wherever the warehouse lies."""


@dataclass(frozen=True)
class ObjectStat:
    """What a store says of an object, by the names of `os.stat_result`."""

    st_size: int
    st_mtime_ns: int
    st_ino: int
    """A signature of its content."""
    st_mode: int = stat.S_IFREG

    @property
    def st_mtime(self) -> float:
        """When it was written, in seconds."""
        return self.st_mtime_ns / 1e9


class _Reader(io.RawIOBase):
    """An object as a file, read in the pieces that are asked for."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at = path, 0
        self._size = path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        piece = (
            self._path.read_range(self._at, min(self._at + len(target), self._size)) if self._at < self._size else b""
        )
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def any_path(place: str | AnyPath) -> AnyPath:
    """Return a place in an object store for its address, and a local path for anything else."""
    if isinstance(place, str) and place.startswith(SCHEMES):
        return ObjectPath.parse(place)
    return Path(place) if isinstance(place, str) else place


def sorted_paths(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """Return paths in the order of their texts."""
    return sorted(paths, key=str)


def below(path: AnyPath, folder: AnyPath) -> str:
    """Return a path below a folder, its parts divided by slashes; ValueError where it is not there."""
    if isinstance(path, ObjectPath) and isinstance(folder, ObjectPath):
        return path.relative_to(folder).as_posix()
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.relative_to(folder).as_posix()
    raise ValueError(f"{path} is not below {folder}")


def local_side(root: AnyPath) -> Path:
    """Return the local folder of a root: itself, or for one in an object store, a folder of the cache.

    It holds what only this machine needs: what is being written, locks, and the file of views.
    """
    if isinstance(root, Path):
        return root
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    readable = "".join(c if c.isalnum() else "-" for c in str(root).partition("://")[2])[:60]
    return cache_folder / "trace-warehouse" / "roots" / f"{readable}-{xxhash.xxh3_64_hexdigest(str(root).encode())[:8]}"


def delete_objects(objects: Sequence[ObjectPath]) -> None:
    """Delete objects of one bucket, a thousand in a request; it is no error where they are gone."""
    if objects:
        with _os_errors(objects[0]), contextlib.suppress(FileNotFoundError):
            import obstore

            obstore.delete(_store(objects[0].bucket), [o._name for o in objects])


@cache
def _store(bucket: str) -> Any:
    """Return the connection to a bucket.

    Raises:
        UsageError: The packages for object stores are not installed.
    """
    try:
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise UsageError(f"Warehouses at {bucket} need more packages: pip install 'trace-warehouse[s3]'") from None
    if plain := os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        os.environ.setdefault("AWS_ALLOW_HTTP", "true")  # DuckDB's lance extension looks for it there
    retry: Any = {"retry_config": _TRIES, "client_options": _PATIENCE | {"allow_http": plain}}
    if bucket.startswith("s3://"):
        return from_url(bucket, credential_provider=credential_provider(), **retry)
    return from_url(bucket) if bucket.startswith("memory://") else from_url(bucket, **retry)


def _stat(meta: Any) -> ObjectStat:
    written = int(meta["last_modified"].timestamp() * 1e9)
    tag = str(meta["e_tag"] or written)
    return ObjectStat(meta["size"], written, xxhash.xxh3_64_intdigest(tag.encode()))


def _os_errors(path: ObjectPath) -> contextlib.AbstractContextManager[None]:
    return os_errors(path.bucket, str(path))
