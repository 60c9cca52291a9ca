"""Texts to token sequences, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from capture.data.example import Example
from capture.sequences.bos import AUTO_BOS, BosPolicy
from capture.sequences.encoding import SequenceFrame, encode_truncated, encode_windows, find_frame, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from capture.sequences.word_alignment import word_indices
from warehouse.errors import UsageError

_TOKENIZED_AT_ONCE = 64


@dataclass(frozen=True)
class SequenceMaker:
    """How a kind of capture makes sequences of examples."""

    tokenize: Callable[[Iterable[Example]], Iterator[TokenizedExample]]
    sides: tuple[str, ...]
    max_len: int | None
    """No part of a sequence has more tokens."""
    keep_together: bool = False
    """An example's sequences go through the model in one batch."""
    first_token: int | None = None
    """The special token that every sequence of a decoder begins with, where one is added to the text."""
    chat_template: bool = False
    """A chat template says what a sequence begins with."""


@dataclass(frozen=True)
class TokenizeOptions:
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
    bos: BosPolicy = AUTO_BOS

    def sequence_maker(self) -> SequenceMaker:
        """Raises UsageError where a sequence has no room for text, and where some of it would be in none."""
        framed = find_frame(self.tokenizer, self.bos, self.max_len)
        if self.stride is not None and framed.text_room is not None and self.stride > framed.text_room:
            raise UsageError(
                f"--stride {self.stride} is more than the {framed.text_room} tokens of text that a sequence holds: use 1 to {framed.text_room}."
            )
        if self.target_column is None:
            begins = framed.first_token if self.side == "dec" else None
            return SequenceMaker(partial(tokenize, options=self), (self.side,), self.max_len, first_token=begins)
        self.target_frame()
        both = self.max_len is not None and self.target_len is not None
        longest = max(self.max_len or 0, self.target_len or 0) if both else None
        return SequenceMaker(partial(tokenize, options=self), ("dec", "enc"), longest)

    def target_frame(self) -> SequenceFrame:
        """Of what comes after the start token. Raises UsageError as `frame` does."""
        return find_frame(self.tokenizer, max_len=None if self.target_len is None else self.target_len - 1, target=True)


def tokenize(examples: Iterable[Example], options: TokenizeOptions) -> Iterator[TokenizedExample]:
    """Texts longer than `max_len` tokens are cut, or with `chunk` go on as the next sequence of the same example.

    Raises UsageError where an example has no target and one is wanted, or has words and the tokenizer tells no offsets; and where
    a sequence has no room for text.
    """
    alters, column = text_change_detector(options.tokenizer), options.target_column
    framed = find_frame(options.tokenizer, options.bos, options.max_len)
    for group in group_examples(examples):
        texts = [e.text for _, e in group]
        if options.chunk:
            found = [(parts, False) for parts in encode_windows(options.tokenizer, texts, framed, options.stride)]
        else:
            found = [([part], truncated) for part, truncated in encode_truncated(options.tokenizer, texts, framed)]
        targets = [(e, _target(e, column)) for _, e in group] if column is not None else []
        answers: list[tuple[SideTokens, bool]] | list[None] = (
            _targets(options, targets) if column is not None else [None] * len(group)
        )
        for (idx, example), (parts, truncated), answer in zip(group, found, answers, strict=True):
            sequences = [
                TokenSequence(
                    example, seq, _sides(options.side, _with_words(part, example, options.tokenizer), answer and answer[0])
                )
                for seq, part in enumerate(p for p in parts if len(p))
            ]
            altered = alters(example.text) or (column is not None and alters(_target(example, column)))
            yield TokenizedExample(idx, example, sequences, truncated or bool(answer and answer[1]), altered)


def _targets(how: TokenizeOptions, targets: list[tuple[Example, str]]) -> list[tuple[SideTokens, bool]]:
    """What the decoder reads of each example's target, and whether that was cut: the start token, then the target, so that the
    token at pos + 1 is the one to predict at pos.
    """
    assert how.start_id is not None
    found = []
    read = encode_truncated(how.tokenizer, [text for _, text in targets], how.target_frame(), target=True)
    for (example, _), (part, truncated) in zip(targets, read, strict=True):
        if example.row.words:
            part = replace(part, word_idx=np.full(len(part), -1))
        found.append((part.with_prefix(how.start_id), truncated))
    return found


def group_examples(examples: Iterable[Example]) -> Iterator[list[tuple[int, Example]]]:
    """Numbered examples, as many at a time as are worth one call of a tokenizer."""
    numbered = enumerate(examples)
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        yield group


def _with_words(part: SideTokens, example: Example, tokenizer: Any) -> SideTokens:
    words = example.row.words
    if not words:
        return part
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} tells no character offsets, so that its tokens cannot be matched with the words of "
            f"{example.source.dataset}. A fast tokenizer is needed."
        )
    return replace(part, word_idx=word_indices(part.char_start, part.char_end, len(example.text), words))


def _sides(side: str, part: SideTokens, target: SideTokens | None) -> dict[str, SideTokens]:
    return {side: part} if target is None else {"dec": target, "enc": part}


def _target(example: Example, column: str) -> str:
    target = example.row.metadata.get(column)
    if not isinstance(target, str) or not target.strip():
        raise UsageError(
            f"Example {example.row.source_id} has no text in column '{column}' for the decoder (it has: "
            f"{', '.join(example.row.metadata) or 'no other columns'}). Name the targets' column: --target-column."
        )
    return target
