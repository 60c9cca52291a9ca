"""Texts → token sequences → batches of like length → shards. Pure generators; they know nothing of models or files.

Everything here is a function of the data and the options, so that a capture that was killed finds the same batches again,
and its shards, written or not, hold what they would have held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import xxhash

from capture.data.example import Example

_WINDOW_EXAMPLES = 1024
_WINDOW_TOKENS = 1 << 18
_TOKENIZED_AT_ONCE = 64


@dataclass(frozen=True)
class Sequence:
    """What goes through the model as one row. All arrays are (T,)."""

    example: Example
    seq: int
    ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    """Characters in the example's text; -1 where a token has no place in it."""
    word_idx: np.ndarray
    """-1 where a token belongs to no word."""
    is_special: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


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
        return sum(map(len, self.sequences))

    def padded(self, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Right-padded ids and mask, (B, T) int64 each."""
        shape = (len(self.sequences), max(map(len, self.sequences)))
        ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
        for i, s in enumerate(self.sequences):
            ids[i, : len(s)] = s.ids
            mask[i, : len(s)] = 1
        return ids, mask


def tokenize(examples: Iterable[Example], tokenizer: Any, max_len: int | None, chunk: bool) -> Iterator[Tokenized]:
    """Texts longer than `max_len` tokens are cut, or with `chunk` go on as the next sequence of the same example."""
    numbered = enumerate(examples)
    offsets = bool(getattr(tokenizer, "is_fast", False))
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        encoded = tokenizer(
            [e.text for _, e in group],
            add_special_tokens=True,
            return_offsets_mapping=offsets,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            truncation=False,
            verbose=False,
        )
        for i, (idx, example) in enumerate(group):
            ids = np.asarray(encoded["input_ids"][i], np.int64)
            special = np.asarray(encoded["special_tokens_mask"][i], bool)
            none = np.full(len(ids), -1)
            start, end, words = none, none, none
            if offsets and len(ids):
                start, end = np.asarray(encoded["offset_mapping"][i], np.int64).T
                start, end = np.where(special, -1, start), np.where(special, -1, end)
                words = np.asarray([-1 if w is None else w for w in encoded.word_ids(i)], np.int64)
            limit = max_len or max(len(ids), 1)
            cuts = range(0, len(ids), limit) if chunk else range(0, min(len(ids), 1), limit)
            sequences = [
                Sequence(example, seq, *(a[at : at + limit] for a in (ids, start, end, words, special)))
                for seq, at in enumerate(cuts)
            ]
            yield Tokenized(idx, example, sequences, not chunk and len(ids) > limit)


def batches(examples: Iterable[Tokenized], batch_tokens: int) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding counted, or of one sequence that is longer.

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
        for s in sorted((s for t in window for s in t.sequences), key=len, reverse=True):
            if waiting and (len(waiting) + 1) * len(waiting[0]) > batch_tokens:
                yield Batch(waiting, mark, due)
                waiting, due = [], []
            waiting.append(s)
        if waiting or due:
            yield Batch(waiting, mark, due)


def _windows(examples: Iterable[Tokenized]) -> Iterator[list[Tokenized]]:
    window: list[Tokenized] = []
    tokens = 0
    for t in examples:
        window.append(t)
        tokens += sum(map(len, t.sequences))
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
