"""Texts → token sequences → batches of like length → shards. Pure generators; they know nothing of models or files.

Everything here is a function of the data and the options, so that a capture that was killed finds the same batches again,
and its shards, written or not, hold what they would have held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import xxhash

from capture.data.example import Example
from warehouse.errors import UsageError

_WINDOW_EXAMPLES = 1024
_WINDOW_TOKENS = 1 << 18
_TOKENIZED_AT_ONCE = 64


@dataclass(frozen=True)
class Part:
    """What one stack of the model reads of a sequence. All arrays are (T,)."""

    ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    """Characters in the text; -1 where a token has no place in it."""
    word_idx: np.ndarray
    """-1 where a token belongs to no word."""
    is_special: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, end: int) -> Part:
        return Part(*(a[start:end] for a in (self.ids, self.char_start, self.char_end, self.word_idx, self.is_special)))


@dataclass(frozen=True)
class Sequence:
    """What goes through the model as one row."""

    example: Example
    seq: int
    parts: Mapping[str, Part]
    """By side: one, or a decoder's and an encoder's."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.parts.values()))


@dataclass(frozen=True)
class Tokenized:
    """An example with its sequences: none where the text has no tokens."""

    idx: int
    example: Example
    sequences: list[Sequence]
    truncated: bool


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

    def padded(self, pad_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By side: right-padded ids and mask, (B, T) int64 each."""
        return {side: _padded([s.parts[side].ids for s in self.sequences], pad_id) for side in self.sequences[0].parts}


@dataclass(frozen=True)
class Tokenizing:
    """How texts become sequences."""

    tokenizer: Any
    side: str
    """The stack that reads the text."""
    max_len: int | None
    chunk: bool = False
    target_column: str | None = None
    """The field of an example's metadata that an encoder-decoder's decoder is given."""
    start_id: int | None = None
    """What the decoder begins with."""


def tokenize(examples: Iterable[Example], how: Tokenizing) -> Iterator[Tokenized]:
    """Texts longer than `max_len` tokens are cut, or with `chunk` go on as the next sequence of the same example.

    Raises UsageError where an example has no target and one is wanted.
    """
    numbered = enumerate(examples)
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        parts = _parts(how.tokenizer, [e.text for _, e in group])
        targets: list[Part] | list[None] = [None] * len(group)
        if how.target_column is not None:
            texts = [_target(e, how.target_column) for _, e in group]
            targets = [_started(p, how.start_id) for p in _parts(how.tokenizer, texts, target=True)]
        for (idx, example), part, target in zip(group, parts, targets, strict=True):
            limit = how.max_len or max(len(part), len(target or ()), 1)
            cuts = range(0, len(part), limit) if how.chunk else range(0, min(len(part), 1), limit)
            sequences = [
                Sequence(example, seq, _sides(how.side, part.cut(at, at + limit), target and target.cut(0, limit)))
                for seq, at in enumerate(cuts)
            ]
            longest = max(len(part), len(target or ()))
            yield Tokenized(idx, example, sequences, not how.chunk and longest > limit)


def _sides(side: str, part: Part, target: Part | None) -> dict[str, Part]:
    return {side: part} if target is None else {"dec": target, "enc": part}


def _parts(tokenizer: Any, texts: list[str], target: bool = False) -> list[Part]:
    offsets = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        **{"text_target" if target else "text": texts},
        add_special_tokens=True,
        return_offsets_mapping=offsets,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    found = []
    for i in range(len(texts)):
        ids = np.asarray(encoded["input_ids"][i], np.int64)
        special = np.asarray(encoded["special_tokens_mask"][i], bool)
        none = np.full(len(ids), -1)
        start, end, words = none, none, none
        if offsets and len(ids):
            start, end = np.asarray(encoded["offset_mapping"][i], np.int64).T
            start, end = np.where(special, -1, start), np.where(special, -1, end)
            words = np.asarray([-1 if w is None else w for w in encoded.word_ids(i)], np.int64)
        found.append(Part(ids, start, end, words, special))
    return found


def _started(part: Part, start_id: int | None) -> Part:
    """The decoder's input: the start token, then the target, so that the token at pos + 1 is the one to predict at pos."""
    none = np.full(1, -1)
    return Part(
        np.concatenate([np.full(1, start_id, np.int64), part.ids]),
        np.concatenate([none, part.char_start]),
        np.concatenate([none, part.char_end]),
        np.concatenate([none, part.word_idx]),
        np.concatenate([np.ones(1, bool), part.is_special]),
    )


def _target(example: Example, column: str) -> str:
    target = example.metadata.get(column)
    if not isinstance(target, str) or not target.strip():
        raise UsageError(
            f"Example {example.source_id} has no text in column '{column}' for the decoder (it has: "
            f"{', '.join(example.metadata) or 'no other columns'}). Name the targets' column: --target-column."
        )
    return target


def _padded(rows: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def batches(examples: Iterable[Tokenized], batch_tokens: int, pads: bool = True) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding counted, or of one sequence that is longer; without padding where
    `pads` is false.

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
        for s in sorted((s for t in window for s in t.sequences), key=lambda s: s.tokens, reverse=True):
            wider = {side: max(len(part), widths.get(side, 0)) for side, part in s.parts.items()}
            uneven = (
                not pads
                and waiting
                and {k: len(p) for k, p in waiting[0].parts.items()} != {k: len(p) for k, p in s.parts.items()}
            )
            if uneven or (waiting and (len(waiting) + 1) * sum(wider.values()) > batch_tokens):
                yield Batch(waiting, mark, due)
                waiting, due, wider = [], [], {side: len(part) for side, part in s.parts.items()}
            waiting.append(s)
            widths = wider
        if waiting or due:
            yield Batch(waiting, mark, due)


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


def shards(found: Iterable[Batch], tokens: int) -> Iterator[list[Batch]]:
    """Batches in groups of at most `tokens` tokens, or of one batch that has more."""
    group: list[Batch] = []
    total = 0
    for batch in found:
        if group and total + batch.tokens > tokens:
            yield group
            group, total = [], 0
        group.append(batch)
        total += batch.tokens
    if group:
        yield group
