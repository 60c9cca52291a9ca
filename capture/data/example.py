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
class Word:
    """A word of an annotated sentence; an empty node where it has no characters."""

    word_id: str
    """As in the data set: `3`, or `8.1` for an empty node."""
    form: str | None
    lemma: str | None = None
    upos: str | None = None
    xpos: str | None = None
    feats: str | None = None
    head: int | None = None
    """Place of its head among the sentence's words, 0-based; None for the root and for empty nodes."""
    deprel: str | None = None
    deps: str | None = None
    multiword: str | None = None
    """The form of the multiword token that it is part of."""
    start: int | None = None
    """First character in the text, and one past the last. The words of a multiword token that cannot be told apart in the
    text have all of it."""
    end: int | None = None


@dataclass(frozen=True)
class Label:
    label_id: int
    label: str


@dataclass(frozen=True)
class Choice:
    label: str
    """Its letter."""
    text: str


@dataclass(frozen=True)
class Row:
    """A row of a file or a hub's data set, as it is there, with what people know about its text."""

    source_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    words: tuple[Word, ...] = ()
    """In order; of an annotated data set every character but white space is in one of them."""
    labels: tuple[Label, ...] = ()
    choices: tuple[Choice, ...] = ()
    """Of a multiple-choice question, which the text is."""
    answer: int | None = None
    """Place of the right choice, 0-based; None: not known."""
    prompt_set: str | None = None
    """Name of the prompt set that it belongs to."""

    def annotations(self) -> bytes:
        """All that people know about the text, to be hashed; empty where that is nothing."""
        known = (self.words, self.labels, self.choices)
        return _utf8(repr((known, self.answer))) if any(known) else b""


@dataclass(frozen=True)
class Source:
    dataset: str
    config: str | None
    split: str | None
    origin: str
    """Where it is read from, as the user named it: a file, a hub name, or `-`."""
    rows: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    reads: str | None = None
    """What of the rows is read where it is not all of them: part of what a capture is."""
    has_ids: bool = True
    """Whether a row's id is a fact of the data set; else it is only where the row stood, and the text identifies it."""
    said: Callable[[], str | None] = field(default=lambda: None, repr=False, compare=False)
    """A line on what of the rows read so far was left out, by the last of the readers."""
    parts: tuple[Source, ...] = ()
    """The sources that it is made of, one after the other, where it is several. An example is its part's own: its id
    says nothing of what else was read with it."""

    def read(self) -> Iterator[Example]:
        """The examples from the start. Rows of white space are no examples, but keep their number."""
        if self.parts:
            for part in self.parts:
                yield from part.read()
            return
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
            yield Example(self, row, key)


@dataclass(frozen=True)
class Example:
    source: Source
    row: Row
    key: str
    """What its id is a hash of, besides the source: the source's own id, or the text where there is none."""

    @property
    def text(self) -> str:
        return self.row.text

    @property
    def example_id(self) -> str:
        """16 hex digits of SHA-256 over data set, config, split and key."""
        s = self.source
        parts = "\x1f".join([s.dataset, s.config or "", s.split or "", self.key])
        return hashlib.sha256(_utf8(parts)).hexdigest()[:16]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
