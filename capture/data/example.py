"""What an example is: one text of a data set, under an id that is the same on every machine and for every model.

An example of a known data set is told by the data set and its id there; a text of a user's own by the text alone, or by an id
that the user gives it: not by the name of a file, nor by whether it came from a file, a command line or a list. A `Source` says which data set it is, and reads it from the start each time it is asked to: a capture that resumes after it was
killed, or that has to widen a dtype, reads its data again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from capture.data.evaluation import Evaluation
from capture.data.files import printable_value
from capture.data.plain import plain
from capture.data.transcript import Chat, Transcript
from warehouse.errors import UsageError
from warehouse.storage import strict_json

_as_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Word:
    """A word of an annotated sentence; one without characters is an empty node."""

    word_id: str
    """Its id in the data set: `3`, or `8.1` for an empty node."""
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
    """Its first character in the text. The words of a multiword token that cannot be told apart in the text all have its
    place."""
    end: int | None = None
    """One past its last character in the text."""


@dataclass(frozen=True)
class Label:
    """A label of an example: its number and its name."""

    label_id: int
    label: str


@dataclass(frozen=True)
class Choice:
    """A choice of a multiple-choice question."""

    label: str
    """Its letter."""
    text: str


@dataclass(frozen=True)
class Row:
    """A row of a file or of a data set of the hub, as it stands there, with its annotations."""

    source_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    words: tuple[Word, ...] = ()
    """The words in order; in an annotated data set every character but white space is in one of them."""
    labels: tuple[Label, ...] = ()
    choices: tuple[Choice, ...] = ()
    """The choices, where the text is a multiple-choice question."""
    answer: int | None = None
    """The place of the right choice, 0-based; None: not known."""
    prompt_set: str | None = None
    """Name of the prompt set that it belongs to."""
    transcripts: tuple[Transcript, ...] = ()
    """What the model reads, one sequence each, where that is not the text: the text is then for people."""
    evaluations: tuple[Evaluation, ...] = ()
    """Scores that it has from an evaluation."""

    def annotations(self) -> bytes:
        """Return words, labels, choices, answer, evaluations and transcripts as bytes to be hashed; empty where there are none."""
        known = (self.words, self.labels, self.choices)
        said = repr((known, self.answer)).encode() if any(known) else b""
        said += repr(self.evaluations).encode("utf-8", "surrogatepass") if self.evaluations else b""
        return said + self.identity.encode("utf-8", "surrogatepass") if self.transcripts else said

    @property
    def identity(self) -> str:
        """What tells it from other rows where there are no ids: its transcripts, or else its text."""
        return "\x1e".join(t.identity for t in self.transcripts) if self.transcripts else self.text


@dataclass(frozen=True)
class Source:
    """A data set or a file, and how its rows are read."""

    dataset: str
    config: str | None
    split: str | None
    origin: str
    """Where it is read from, as the user named it: a file, a hub name, or `-`."""
    rows: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    reads: str | None = None
    """What of the rows is read, or made of them, where that is not obvious: it is part of a capture's options."""
    has_ids: bool = True
    """A row's id is a fact of the data set; else it only says where the row stood, and the text identifies the example."""
    own: bool = False
    """Texts of the user's own: what identifies an example does so alone, whatever the data set is called."""
    description: Callable[[], str | None] = field(default=lambda: None, repr=False, compare=False)
    """Gives a line on which of the rows read so far were left out."""
    chats: bool = False
    """Its rows hold chats, which a model's chat template writes."""
    members: tuple[Source, ...] = ()
    """The sources that it consists of, one after the other, where it is several. An example belongs to its member."""

    def __post_init__(self) -> None:
        """Check that its names are Unicode text, which an argument of the command line need not be.

        Raises:
            UsageError: A name is not.
        """
        for name in filter(None, (self.dataset, self.config, self.split, self.origin, self.reads)):
            if half := strict_json.half_pair(name):
                raise UsageError(f"{printable_value(name)} is not Unicode text (it holds {half}): rename it.")

    def read(self) -> Iterator[Example]:
        """Read the examples from the start. Rows of white space are no examples, but keep their number.

        All that a run is made of passes through here, wherever it comes from.

        Yields:
            The examples, in order.

        Raises:
            UsageError: A row cannot be stored: its id is not unique, or something in it is not Unicode text.
        """
        seen: dict[str, int] = {}
        for source in self.members or (self,):
            yield from source._read(seen)

    def _read(self, seen: dict[str, int]) -> Iterator[Example]:
        """Read the examples of this source alone; `seen` counts those of each id before."""
        where = f"{printable_value(self.origin)}, row"
        for row in self.rows():
            if not row.text or row.text.isspace():
                continue
            row = check_storable(row, where)
            key = row.source_id if self.has_ids else row.identity
            example = Example(self, row, key)
            n = seen[example.example_id] = seen.get(example.example_id, 0) + 1
            if n > 1 and self.has_ids:
                raise UsageError(
                    f"{printable_value(self.origin)} has two rows with the id '{printable_value(key, 60)}': the copy is damaged. Make or "
                    "fetch it again."
                )
            # the second occurrence of a text is an example of its own
            yield example if n == 1 else replace(example, key=f"{key}\x1f{n}")


@dataclass(frozen=True)
class Example:
    """One text of a data set."""

    source: Source
    row: Row
    key: str
    """What its id is a hash of, besides the source: the row's own id, or the text where there is none."""
    example_id: str = field(init=False)
    """16 hex digits of SHA-256 over data set, config, split and key; of the user's own data over the key alone."""

    def __post_init__(self) -> None:
        """Work out its id."""
        s = self.source
        names = ("id" if s.has_ids else "text", "", "") if s.own else (s.dataset, s.config or "", s.split or "")
        digest = hashlib.sha256("\x1f".join((*names, self.key)).encode())
        object.__setattr__(self, "example_id", digest.hexdigest()[:16])

    @property
    def text(self) -> str:
        """The row's text."""
        return self.row.text


def check_storable(row: Row, where: str) -> Row:
    """Check that a row can be stored, and convert its metadata to what any parser of JSON reads.

    Args:
        row: The row.
        where: What messages call it, but for its id, which follows.

    Returns:
        The row with converted metadata.

    Raises:
        UsageError: Something in it is not Unicode text: half of a surrogate pair, which JSON, a file's name and an argument can
            spell. Or its metadata is nested too deep.
    """
    metadata = row.metadata
    try:
        metadata = plain(metadata) if metadata else metadata
    except ValueError as e:
        raise UsageError(f"{where} {printable_value(row.source_id)}: its metadata cannot be kept: {e}.") from None
    for what, text in _strings(row, metadata):
        if half := strict_json.half_pair(text):
            raise UsageError(
                f"{where} {printable_value(row.source_id)}: its {what} has {half}, half of a surrogate pair, which is not Unicode text."
            )
    return row if metadata == row.metadata else replace(row, metadata=metadata)


def _strings(row: Row, metadata: Any) -> Iterator[tuple[str, str]]:
    """Yield all strings of a row, and what they are."""
    yield "id", row.source_id
    yield "text", row.text
    if row.prompt_set is not None:
        yield "prompt set", row.prompt_set
    for transcript in row.transcripts:
        yield "chat" if isinstance(transcript, Chat) else "transcript", transcript.identity
    if metadata:
        yield "metadata", _as_json(metadata)
    annotated = {"words": row.words, "labels": row.labels, "choices": row.choices, "evaluations": row.evaluations}
    for what, items in annotated.items():
        for item in items:
            yield from ((what, value) for value in vars(item).values() if isinstance(value, str))
