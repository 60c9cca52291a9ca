"""Example: one text of a data set, under an id that is the same on every machine and for every model.

A `Source` says which data set it is and reads it from the start as often as it is asked to: a capture that goes on after a
kill, or that has to widen a dtype, walks through its data again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a file or a hub's data set, as it is there."""

    source_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    dataset: str
    config: str | None
    split: str | None
    origin: str
    """Where it is read from, as the user named it: a file, a hub name, or `-`."""
    rows: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    has_ids: bool = True
    """Whether a row's id is a fact of the data set; else it is only where the row stood, and the text identifies it."""

    def read(self) -> Iterator[Example]:
        """The examples from the start. Rows of white space are no examples, but keep their number."""
        seen: dict[bytes, int] = {}
        for row in self.rows():
            if not row.text.strip():
                continue
            key = row.source_id
            if not self.has_ids:
                digest = hashlib.sha256(_utf8(row.text)).digest()[:12]
                n = seen[digest] = seen.get(digest, 0) + 1
                key = (
                    row.text if n == 1 else f"{row.text}\x1f{n}"
                )  # a text's second occurrence is an example of its own
            yield Example(self, row.text, row.source_id, key, row.metadata)


@dataclass(frozen=True)
class Example:
    source: Source
    text: str
    source_id: str
    """Its id in the source, or its line: what a reader would look it up by."""
    key: str
    """What its id is a hash of, besides the source: the source's own id, or the text where there is none."""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def example_id(self) -> str:
        """16 hex digits of SHA-256 over data set, config, split and key."""
        s = self.source
        parts = "\x1f".join([s.dataset, s.config or "", s.split or "", self.key])
        return hashlib.sha256(_utf8(parts)).hexdigest()[:16]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
