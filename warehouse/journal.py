"""The journal of a capture: one JSON line for each thing that is safely on disk, appended and fsynced.

    {"job": {…}, "created_at": …}            what is being captured, options and hashes included
    {"promote": {"resid.post_mlp.L29": "F32"}}  tensors whose values outgrew their dtype: their shard is written anew
    {"shard": 0, "mark": …, "files": […], …}    a shard and its parts are complete and durable

A line is only written once what it tells of has been fsynced; a last line cut short by a kill is ignored.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ShardEntry:
    shard: int
    mark: str
    """The job's own note of where in its data it stood; `resume` gets it back."""
    seconds: float
    """Time since the entry before, or since this process began."""
    files: dict[str, int]
    """Sizes in bytes, by path relative to the staging folder."""


class Journal:
    def __init__(self, path: Path) -> None:
        """Reads what is there. `job` is None for a new capture: `begin` it."""
        self.path = path
        self.job: dict[str, Any] | None = None
        self.created_at = ""
        self.promoted: dict[str, str] = {}
        self.shards: list[ShardEntry] = []
        sound = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self._take(entry)
            sound += len(line)
        self._sound = sound

    def _take(self, entry: dict[str, Any]) -> None:
        if "job" in entry:
            self.job, self.created_at = entry["job"], entry["created_at"]
        elif "promote" in entry:
            self.promoted |= entry["promote"]
        else:
            self.shards.append(ShardEntry(**entry))

    def begin(self, job: dict[str, Any], created_at: str) -> None:
        self._append({"job": job, "created_at": created_at})

    def promote(self, tensors: dict[str, str]) -> None:
        self._append({"promote": tensors})

    def complete(self, shard: ShardEntry) -> None:
        self._append(asdict(shard))

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab") as f:
            f.truncate(self._sound)
            f.write(json.dumps(entry).encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())
            self._sound = f.tell()
        self._take(entry)
