"""RunIdentity: what makes two calls of a command the same job, so that the second resumes what the first began.

A job says what kind of run it makes, which runs it reads, and every other fact that the result depends on. `RunWriter` gets
`to_dict`, journals it, and refuses to resume a job with another one. Jobs that name their runs themselves take `digest`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from warehouse.schema.tables import SCHEMA_VERSION


@dataclass(frozen=True)
class RunIdentity:
    """What a run is made from, and how."""

    kind: str
    """The kind of run."""
    facts: Mapping[str, Any]
    """JSON values that the result depends on: options, hashes of model and data, versions of what computes."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """The runs that it is made from, and the hash of each one's manifest."""

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as JSON values, for the journal."""
        identity: dict[str, Any] = json.loads(json.dumps(self._entries()))
        return identity

    def digest(self, length: int) -> str:
        """Return `length` hex digits, at most 16, that are the same for the same identity."""
        return xxhash.xxh3_64_hexdigest(repr(sorted(self._entries().items())).encode())[:length]

    def _entries(self) -> dict[str, Any]:
        parents = {"parents": dict(self.parents)} if self.parents else {}
        return {"kind": self.kind, "schema_version": SCHEMA_VERSION, **parents, **self.facts}
