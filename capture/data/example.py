"""Example: one text of a data set, under an id that is the same on every machine and for every model.

A `Source` says which data set it is and reads it from the start as often as it is asked to: a capture that goes on after a
kill, or that has to widen a dtype, walks through its data again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from capture.data.files import printable_value
from capture.data.plain import plain
from warehouse.errors import UsageError
from warehouse.storage import strict_json


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
        return repr((known, self.answer)).encode() if any(known) else b""


@dataclass(frozen=True)
class Source:
    dataset: str
    config: str | None
    split: str | None
    origin: str
    """Where it is read from, as the user named it: a file, a hub name, or `-`."""
    rows: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    reads: str | None = None
    """What of the rows is read, or made of them, where that is not plain: part of what a capture is."""
    has_ids: bool = True
    """Whether a row's id is a fact of the data set; else it is only where the row stood, and the text identifies it."""
    description: Callable[[], str | None] = field(default=lambda: None, repr=False, compare=False)
    """A line on what of the rows read so far was left out, by the last of the readers."""
    members: tuple[Source, ...] = ()
    """The sources that it is made of, one after the other, where it is several. An example is its part's own: its id
    says nothing of what else was read with it."""

    def __post_init__(self) -> None:
        """Raises UsageError for a name that is not Unicode text, which an argument of the command line may not be."""
        for name in filter(None, (self.dataset, self.config, self.split, self.origin, self.reads)):
            if half := strict_json.half_pair(name):
                raise UsageError(f"{printable_value(name)} is not Unicode text (it holds {half}): rename it.")

    def read(self) -> Iterator[Example]:
        """The examples from the start. Rows of white space are no examples, but keep their number.

        All that a run is made of passes here, wherever it comes from. Raises UsageError for a row that cannot be stored: one
        with an id that was there before, or something that is not Unicode text.
        """
        if self.members:
            for part in self.members:
                yield from part.read()
            return
        seen: dict[bytes, int] = {}
        for row in self.rows():
            if not row.text.strip():
                continue
            row = check_storable(row, f"{printable_value(self.origin)}, row {printable_value(row.source_id)}")
            key = row.source_id if self.has_ids else row.text
            digest = hashlib.sha256(key.encode()).digest()[:12]
            n = seen[digest] = seen.get(digest, 0) + 1
            if n > 1 and self.has_ids:
                raise UsageError(
                    f"{printable_value(self.origin)} has two rows with the id '{printable_value(key, 60)}', which is to tell them apart: the copy is "
                    "damaged. Make or fetch it again."
                )
            yield Example(self, row, key if n == 1 else f"{key}\x1f{n}")  # a text's second occurrence is one of its own


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
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def check_storable(row: Row, where: str) -> Row:
    """Returns the row with metadata that any parser of JSON reads. Raises UsageError, which begins with `where`, for anything in
    it that is not Unicode text: half of a surrogate pair, which JSON, a file's name and an argument can spell.
    """
    try:
        metadata = plain(row.metadata)
    except ValueError as e:
        raise UsageError(f"{where}: its metadata cannot be kept: {e}.") from None
    strings = [("id", row.source_id), ("text", row.text), ("prompt set", row.prompt_set)]
    strings += [("metadata", json.dumps(metadata, ensure_ascii=False))]
    parts = (("words", row.words), ("labels", row.labels), ("choices", row.choices))
    strings += [(what, value) for what, found in parts for part in found for value in vars(part).values()]
    for what, value in strings:
        if isinstance(value, str) and (half := strict_json.half_pair(value)):
            raise UsageError(f"{where}: its {what} has {half}, half of a surrogate pair, which is not Unicode text.")
    return replace(row, metadata=metadata)
