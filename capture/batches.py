"""Texts → token sequences → batches of like length → shards. Pure generators; they know nothing of models or files.

Everything here is a function of the data and the options, so that a capture that was killed finds the same batches again,
and its shards, written or not, hold what they would have held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import xxhash

from capture.data.example import Example
from capture.encoding import AS_GIVEN, Bos, Frame, Part, altering, cut, frame, windows
from capture.words import word_indices
from warehouse.errors import UsageError
from warehouse.manifest import BATCHES

PADDED, ONE_LENGTH, ONE_TEXT = BATCHES

_WINDOW_EXAMPLES = 1024
_WINDOW_TOKENS = 1 << 18
_TOKENIZED_AT_ONCE = 64


@dataclass(frozen=True)
class Sequence:
    """What goes through the model as one row."""

    example: Example
    seq: int
    parts: Mapping[str, Part]
    """By side: one, or a decoder's and an encoder's."""
    text: str | None = None
    """What was tokenized, where that is not the example's text."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def lengths(self) -> dict[str, int]:
        """By side."""
        return {side: len(part) for side, part in self.parts.items()}


@dataclass(frozen=True)
class Tokenized:
    """An example with its sequences: none where the text has no tokens."""

    idx: int
    example: Example
    sequences: list[Sequence]
    truncated: bool
    altered: bool
    """Whether the tokenizer changed the text before it cut it into tokens."""


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass, longest first. `examples` are those whose rows are due with it."""

    sequences: list[Sequence]
    mark: str
    """The data read so far: how many examples, and a hash over them."""
    examples: list[Tokenized] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(s.tokens for s in self.sequences)

    @property
    def name(self) -> str:
        """The sequence that leads it; the same whichever process runs it."""
        return f"{self.sequences[0].example.example_id}.{self.sequences[0].seq}"

    def padded(self, pad_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By side: right-padded ids and mask, (B, T) int64 each."""
        return {side: _padded([s.parts[side].ids for s in self.sequences], pad_id) for side in self.sequences[0].parts}

    def padded_types(self) -> np.ndarray | None:
        """(B, T) int64, padding as 0, where the model is told which text of a pair a token is of."""
        types = [part.types for s in self.sequences for part in s.parts.values()]
        return None if types[0] is None else _padded([t for t in types if t is not None], 0)[0]


@dataclass(frozen=True)
class Sequencing:
    """How a kind of capture makes sequences of examples."""

    tokenize: Callable[[Iterable[Example]], Iterator[Tokenized]]
    sides: tuple[str, ...]
    max_len: int | None
    """No part of a sequence has more tokens."""
    together: bool = False
    """An example's sequences go through the model in one batch."""
    begins: int | None = None
    """The special token that every sequence of a decoder begins with, where one is added to the text."""
    templated: bool = False
    """A chat template says what a sequence begins with."""


@dataclass(frozen=True)
class Tokenizing:
    """How texts become sequences."""

    tokenizer: Any
    side: str
    """The stack that reads the text."""
    max_len: int | None
    chunk: bool = False
    """Go on with the rest of a long text in the next sequence."""
    target_column: str | None = None
    """The field of an example's metadata that an encoder-decoder's decoder is given."""
    start_id: int | None = None
    """What the decoder begins with."""
    target_len: int | None = None
    """The most tokens of what the decoder is given, its first among them."""
    stride: int | None = None
    """With `chunk`: how many tokens of the text after the last sequence the next one begins; None: where that one ends."""
    bos: Bos = AS_GIVEN

    def sequencing(self) -> Sequencing:
        """Raises UsageError where a sequence has no room for text, and where some of it would be in none."""
        framed = frame(self.tokenizer, self.bos, self.max_len)
        if self.stride is not None and framed.room is not None and self.stride > framed.room:
            raise UsageError(
                f"--stride {self.stride} is more than the {framed.room} tokens of text that a sequence holds: use 1 to {framed.room}."
            )
        if self.target_column is None:
            begins = framed.begins if self.side == "dec" else None
            return Sequencing(partial(tokenize, how=self), (self.side,), self.max_len, begins=begins)
        self.target_frame()
        both = self.max_len is not None and self.target_len is not None
        longest = max(self.max_len or 0, self.target_len or 0) if both else None
        return Sequencing(partial(tokenize, how=self), ("dec", "enc"), longest)

    def target_frame(self) -> Frame:
        """Of what comes after the start token. Raises UsageError as `frame` does."""
        return frame(self.tokenizer, max_len=None if self.target_len is None else self.target_len - 1, target=True)


def tokenize(examples: Iterable[Example], how: Tokenizing) -> Iterator[Tokenized]:
    """Texts longer than `max_len` tokens are cut, or with `chunk` go on as the next sequence of the same example.

    Raises UsageError where an example has no target and one is wanted, or has words and the tokenizer tells no offsets; and where
    a sequence has no room for text.
    """
    alters, column = altering(how.tokenizer), how.target_column
    framed = frame(how.tokenizer, how.bos, how.max_len)
    for group in grouped(examples):
        texts = [e.text for _, e in group]
        if how.chunk:
            found = [(parts, False) for parts in windows(how.tokenizer, texts, framed, how.stride)]
        else:
            found = [([part], truncated) for part, truncated in cut(how.tokenizer, texts, framed)]
        targets = [(e, _target(e, column)) for _, e in group] if column is not None else []
        answers: list[tuple[Part, bool]] | list[None] = (
            _targets(how, targets) if column is not None else [None] * len(group)
        )
        for (idx, example), (parts, truncated), answer in zip(group, found, answers, strict=True):
            sequences = [
                Sequence(
                    example, seq, _sides(how.side, _with_words(part, example, how.tokenizer), answer and answer[0])
                )
                for seq, part in enumerate(p for p in parts if len(p))
            ]
            altered = alters(example.text) or (column is not None and alters(_target(example, column)))
            yield Tokenized(idx, example, sequences, truncated or bool(answer and answer[1]), altered)


def _targets(how: Tokenizing, targets: list[tuple[Example, str]]) -> list[tuple[Part, bool]]:
    """What the decoder reads of each example's target, and whether that was cut: the start token, then the target, so that the
    token at pos + 1 is the one to predict at pos."""
    assert how.start_id is not None
    found = []
    read = cut(how.tokenizer, [text for _, text in targets], how.target_frame(), target=True)
    for (example, _), (part, truncated) in zip(targets, read, strict=True):
        if example.row.words:
            part = replace(part, word_idx=np.full(len(part), -1))
        found.append((part.after(how.start_id), truncated))
    return found


def grouped(examples: Iterable[Example]) -> Iterator[list[tuple[int, Example]]]:
    """Numbered examples, as many at a time as are worth one call of a tokenizer."""
    numbered = enumerate(examples)
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        yield group


def _with_words(part: Part, example: Example, tokenizer: Any) -> Part:
    words = example.row.words
    if not words:
        return part
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} tells no character offsets, so that its tokens cannot be matched with the words of "
            f"{example.source.dataset}. A fast tokenizer is needed."
        )
    return replace(part, word_idx=word_indices(part.char_start, part.char_end, len(example.text), words))


def _sides(side: str, part: Part, target: Part | None) -> dict[str, Part]:
    return {side: part} if target is None else {"dec": target, "enc": part}


def check_ids(ids: np.ndarray, vocabulary: int, tokenizer: Any, name: str, where: str) -> None:
    """Raises UsageError where a token has no row in the embedding of the model `name`, which has `vocabulary` of them."""
    beyond = ids[(ids < 0) | (ids >= vocabulary)]
    if len(beyond):
        first = int(beyond[0])
        raise UsageError(
            f"{where}: the tokenizer of {name} gives {tokenizer.convert_ids_to_tokens(first)!r} the id {first}; it has "
            f"{len(tokenizer):,} tokens, and the model's embedding has {vocabulary:,} rows. They don't belong together: use the "
            "tokenizer that the model was trained with."
        )


def _target(example: Example, column: str) -> str:
    target = example.row.metadata.get(column)
    if not isinstance(target, str) or not target.strip():
        raise UsageError(
            f"Example {example.row.source_id} has no text in column '{column}' for the decoder (it has: "
            f"{', '.join(example.row.metadata) or 'no other columns'}). Name the targets' column: --target-column."
        )
    return target


def _padded(rows: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def batches(
    examples: Iterable[Tokenized], batch_tokens: int, holds: str = PADDED, together: bool = False, growth: int = 0
) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding counted, or of one sequence that is longer; `holds` is what one may hold.
    With `together` the sequences of an example are not parted, even where they are more. `growth`: so many tokens will be added
    to each sequence.

    Sequences are sorted by length within a window of the data, so that little is padding and memory stays flat; the
    examples' own rows come with the first batch of their window.
    """
    digest, count = xxhash.xxh3_128(), 0
    for window in _windows(examples):
        for t in window:
            digest.update(f"{t.example.example_id}\x1f{t.example.text}\x1e".encode("utf-8", "surrogatepass"))
        count += len(window)
        mark = f"{count} {digest.hexdigest()}"
        due = window
        waiting: list[Sequence] = []
        widths: dict[str, int] = {}
        for unit in _units(window, together):
            wider = dict(widths)
            for s in unit:
                wider = {side: max(len(part), wider.get(side, 0)) for side, part in s.parts.items()}
            apart = waiting and not _fits(waiting[0], unit[0], holds)
            if apart or (waiting and (len(waiting) + len(unit)) * (sum(wider.values()) + growth) > batch_tokens):
                yield Batch(waiting, mark, due)
                waiting, due = [], []
                wider = {side: max(len(s.parts[side]) for s in unit) for side in unit[0].parts}
            waiting += unit
            widths = wider
        if waiting or due:
            yield Batch(waiting, mark, due)


def _units(window: list[Tokenized], together: bool) -> list[list[Sequence]]:
    """What is not parted, longest first."""
    units = [t.sequences for t in window if t.sequences] if together else [[s] for t in window for s in t.sequences]
    return sorted(units, key=lambda unit: max(s.tokens for s in unit), reverse=True)


def _fits(one: Sequence, other: Sequence, holds: str) -> bool:
    """Whether two sequences may share a batch."""
    return holds == PADDED or (holds == ONE_LENGTH and one.lengths == other.lengths)


def parted(batch: Batch, holds: str) -> Iterator[Batch]:
    """A batch whose sequences have become longer, as batches of what one may hold. Its examples come with the first."""
    if holds == PADDED or not batch.sequences:
        yield batch
        return
    due, left = batch.examples, batch.sequences
    while left:
        first = left[0]
        fitting = [s for s in left if s is first or _fits(first, s, holds)]
        left = [s for s in left if not any(s is other for other in fitting)]
        yield replace(batch, sequences=fitting, examples=due)
        due = []


def _windows(examples: Iterable[Tokenized]) -> Iterator[list[Tokenized]]:
    window: list[Tokenized] = []
    tokens = 0
    for t in examples:
        window.append(t)
        tokens += sum(s.tokens for s in t.sequences)
        if len(window) >= _WINDOW_EXAMPLES or tokens >= _WINDOW_TOKENS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def with_own_examples(found: Iterable[Batch]) -> Iterator[Batch]:
    """Batches whose examples are those of their sequences: for sequences that are not whole yet when their window is read.
    An example's sequences must be together."""
    waiting: dict[str, Tokenized] = {}
    for batch in found:
        waiting |= {t.example.example_id: t for t in batch.examples}
        mine = dict.fromkeys(s.example.example_id for s in batch.sequences)
        yield replace(batch, examples=[waiting.pop(example_id) for example_id in mine])


def shards(found: Iterable[Batch], tokens: int, growth: int = 0) -> Iterator[list[Batch]]:
    """Batches in groups of at most `tokens` tokens, or of one batch that has more; `growth` as in `batches`."""
    group: list[Batch] = []
    total = 0
    for batch in found:
        size = batch.tokens + growth * len(batch.sequences)
        if group and total + size > tokens:
            yield group
            group, total = [], 0
        group.append(batch)
        total += size
    if group:
        yield group
