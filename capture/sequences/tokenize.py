"""Texts to token sequences, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from capture.data.example import Example
from capture.sequences.encoding import AS_GIVEN, Bos, Frame, Part, altering, cut, frame, windows
from capture.sequences.sequence import Sequence, Tokenized
from capture.sequences.word_alignment import word_indices
from warehouse.errors import UsageError

_TOKENIZED_AT_ONCE = 64


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
    token at pos + 1 is the one to predict at pos.
    """
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


def _target(example: Example, column: str) -> str:
    target = example.row.metadata.get(column)
    if not isinstance(target, str) or not target.strip():
        raise UsageError(
            f"Example {example.row.source_id} has no text in column '{column}' for the decoder (it has: "
            f"{', '.join(example.row.metadata) or 'no other columns'}). Name the targets' column: --target-column."
        )
    return target
