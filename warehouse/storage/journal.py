"""The journal of a capture: one JSON line for each thing that is safely on disk, appended and fsynced.

    {"job": {…}, "created_at": …}               what is being captured, options and hashes included
    {"promote": {"resid.post_mlp.L29": "F32"}}  tensors with values that their dtype cannot hold: their shard is written again
    {"shard": 0, "mark": …, "files": {…}, …}    a shard and its tables are complete and durable

A line is only written once the files that it names have been fsynced. A last line cut short by a kill is ignored; any other
line that is not what was written stops the capture from resuming.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AwareDatetime, ConfigDict, Field, NonNegativeInt, ValidationError

from warehouse.errors import CorruptRunError
from warehouse.storage import strict_json
from warehouse.storage.files import read_file
from warehouse.storage.sealed import StrictModel, is_sealed, seal

Point = TypeVar("Point")


class _Begun(StrictModel):
    job: dict[str, Any]
    created_at: AwareDatetime


class _Promoted(StrictModel):
    promote: dict[str, Literal["F32"]]


class StagedFile(StrictModel):
    """A file of a complete shard, as the journal names it."""

    bytes: NonNegativeInt
    checksum: str | None = None
    """xxh3-128; None for a safetensors file, whose sequences have checksums of their own in the shard's rows of `tensors`."""


class ShardEntry(StrictModel):
    """A line of the journal: a shard that is complete and durable."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    shard: NonNegativeInt
    resume_point: str = Field(validation_alias="mark", serialization_alias="mark")
    """The job's own note of where in its data it stood, which a resumed job reads."""
    seconds: float
    """Time since the entry before, or since this process began."""
    files: dict[str, StagedFile]
    """By path relative to the staging folder."""

    def resume_point_as(self, kind: type[Point]) -> Point:
        """Return the resume point of a job that notes a JSON value of one type.

        Raises:
            CorruptRunError: It is not JSON of that type.
        """
        try:
            value = strict_json.parse(self.resume_point)
        except ValueError:
            value = None
        if not isinstance(value, kind):
            raise CorruptRunError(
                f"The journal of the unfinished capture is damaged: its shard {self.shard} is marked {self.resume_point!r}. Start over: "
                "traces runs rm RUN"
            )
        return value


class Journal:
    """The journal of one capture: read when it is opened, appended to as the capture goes on."""

    def __init__(self, path: Path) -> None:
        """Read the journal, if the file exists; `job` is None for a new capture, which has to `begin`."""
        self.path = path
        self.job: dict[str, Any] | None = None
        self.created_at: datetime | None = None
        self.promoted: dict[str, str] = {}
        self.shards: list[ShardEntry] = []
        lines = self._lines()
        sound = 0
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):  # the last one, cut short by a kill
                break
            self._apply_line(line, number)
            sound += len(line)
        self._sound = sound

    def _lines(self) -> list[bytes]:
        try:
            return read_file(self.path).splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as e:
            raise self._damaged(1, f"it cannot be read: {e.strerror}") from None

    def _apply_line(self, line: bytes, number: int) -> None:
        """Check a line and take over what it says."""
        try:
            fields = strict_json.parse(line)
            if not is_sealed(line):
                raise ValueError("it was altered")
            del fields["seal"]
            self._apply(fields)
        except ValidationError as e:
            first = e.errors()[0]
            raise self._damaged(number, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as e:
            raise self._damaged(number, str(e)) from None

    def _damaged(self, number: int, reason: str) -> CorruptRunError:
        name = self.path.parent.name
        return CorruptRunError(
            f"The journal of the unfinished capture '{name}' is damaged ({self.path}, line {number}: {reason}). "
            f"Start over: traces runs rm {name}"
        )

    def _apply(self, entry: dict[str, Any]) -> None:
        """Take over what an entry says.

        Raises:
            ValueError: It is not the next shard's.
        """
        if self.job is None:
            begun = _Begun.model_validate(entry)
            self.job, self.created_at = begun.job, begun.created_at
        elif "promote" in entry:
            self.promoted |= _Promoted.model_validate(entry).promote
        else:
            shard = ShardEntry.model_validate(entry)
            if shard.shard != len(self.shards):
                raise ValueError(f"shard {shard.shard} stands where {len(self.shards)} should")
            self.shards.append(shard)

    def begin(self, job: dict[str, Any], created_at: datetime) -> None:
        """Note what is being captured."""
        self._append({"job": job, "created_at": created_at.isoformat()})

    def promote(self, tensors: dict[str, str]) -> None:
        """Note that these tensors, by name, are stored in these wider dtypes from now on."""
        self._append({"promote": tensors})

    def complete(self, shard: ShardEntry) -> None:
        """Note that a shard is complete and durable."""
        self._append(shard.model_dump(by_alias=True))

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab") as f:
            f.truncate(self._sound)
            f.write(seal(json.dumps(entry).encode()) + b"\n")
            f.flush()
            os.fsync(f.fileno())
            self._sound = f.tell()
        self._apply(entry)
