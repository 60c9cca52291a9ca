"""Reads the entries of a zip file whole and checked, those too that are compressed by Zstandard, which `zipfile` reads from Python 3.14 on."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from capture.data.files import UnreadableFileError, check_readable, open_file, printable_value
from warehouse.errors import UsageError

_ZSTANDARD = 93
_LOCAL_HEADER = 30
"""Bytes of an entry's own header, without its name and extra field, whose lengths are its last four bytes."""
_REMEDY = "Copy it again from where the evaluation ran."


class ZipEntries:
    """A zip file whose list of entries has been read, and which is opened for each entry that is asked for."""

    def __init__(self, path: Path) -> None:
        """Read the list; raises UsageError where the file is no zip file, or cut short."""
        check_readable(path)
        try:
            with zipfile.ZipFile(path) as z:
                self._entries = {info.filename: info for info in z.infolist()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as e:
            raise UsageError(f"{printable_value(path)} is cut short or damaged ({e}). {_REMEDY}") from None
        except OSError as e:
            raise UnreadableFileError(path, e) from None
        self.path = path

    @property
    def names(self) -> list[str]:
        """The names of the entries, each once, in the file's order."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """Return the contents of an entry.

        Args:
            name: The entry.

        Returns:
            Its bytes, decompressed.

        Raises:
            UsageError: The entry is damaged.
        """
        info = self._entries[name]
        with open_file(self.path) as f:
            f.seek(info.header_offset)
            header = f.read(_LOCAL_HEADER)
            f.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
            raw = f.read(info.compress_size)
        damaged = f"{printable_value(self.path)} is damaged: {printable_value(name)} in it cannot be read"
        try:
            contents = _decompressed(raw, info.compress_type)
        except (zlib.error, OSError, ValueError) as e:
            raise UsageError(f"{damaged} ({e}). {_REMEDY}") from None
        if len(contents) != info.file_size or zlib.crc32(contents) != info.CRC:
            raise UsageError(f"{damaged} as it was written. {_REMEDY}")
        return contents


def _decompressed(raw: bytes, method: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return raw
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompress(raw, -zlib.MAX_WBITS)
    if method == _ZSTANDARD:
        import pyarrow as pa

        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:  # of several frames, if it has them
            contents: bytes = stream.read()
        return contents
    raise ValueError(f"it is compressed by method {method}")
