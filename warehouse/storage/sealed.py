"""Typed JSON files with a checksum of their own: run.json and the files beside vector tables.

The last field is `seal`, a checksum of all bytes before it. A file that was altered, by a bad disk or by hand, does not read.
A seal is not a signature: anybody who writes the file can seal it.
"""

from __future__ import annotations

import re
from typing import Self

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from warehouse.errors import CorruptRunError, NewerSchemaError, StoreError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import strict_json
from warehouse.storage.files import read_file, write_atomically
from warehouse.storage.objects import AnyPath

SEALED_SINCE = 6
"""The first schema version whose files have a seal."""

_SEAL = re.compile(rb',\s*"seal":\s*"([0-9a-f]{32})"\s*\}\s*\Z')


def seal(body: bytes) -> bytes:
    """Return a JSON object's bytes with one more field, the seal over all bytes before it."""
    start = body.rstrip().removesuffix(b"}").rstrip()
    return start + b', "seal": "' + xxhash.xxh3_128_hexdigest(start).encode() + b'"}'


def is_sealed(raw: bytes) -> bool:
    """Return whether a JSON object's bytes end in a seal that fits them."""
    match = _SEAL.search(raw)
    return match is not None and xxhash.xxh3_128_hexdigest(raw[: match.start()]).encode() == match[1]


class StrictModel(BaseModel):
    """A model that takes the fields that it declares and no others."""

    model_config = ConfigDict(extra="forbid")


class SealedFile(StrictModel):
    """A file of one JSON object, sealed when it is written and checked against its seal when it is read."""

    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Return the file's content, its seal included."""
        return seal(self.model_dump_json(indent=1).encode())

    def write_to(self, path: AnyPath) -> None:
        """Write the file, whole or not at all."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def read_from(cls, path: AnyPath) -> Self:
        """Read a file of this type.

        Args:
            path: The file.

        Returns:
            What it holds.

        Raises:
            FileNotFoundError: There is no such file.
            NewerSchemaError: A newer version of this package wrote it.
            CorruptRunError: It is not what was written.
            StoreError: The store does not show it.
        """
        try:
            raw = read_file(path)
            fields = strict_json.parse(raw)
        except (FileNotFoundError, StoreError):
            raise
        except OSError as e:
            raise CorruptRunError(f"{path} cannot be read: {e.strerror}.") from None
        except ValueError as e:
            raise CorruptRunError(f"{path} is not valid JSON: {e}.") from None
        if not isinstance(fields, dict):
            raise CorruptRunError(f"{path} is not a JSON object.")
        version = fields.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerSchemaError(path, version, SCHEMA_VERSION)
        if "seal" in fields or (isinstance(version, int) and version >= SEALED_SINCE):
            if not is_sealed(raw):
                raise CorruptRunError(f"{path} was altered after it was written: its seal does not fit what it says.")
            del fields["seal"]
        try:
            return cls.model_validate(fields)
        except ValidationError as e:
            first = e.errors()[0]
            reason = ": ".join(
                filter(None, (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")))
            )
            raise CorruptRunError(f"{path} is not what it should be: {reason}.") from None
