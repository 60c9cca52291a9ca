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
from capture.words import word_indices
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
    types: np.ndarray | None = None
    """Which text of a pair each token is of, where the model is told (`token_type_ids`)."""
    is_response: np.ndarray | None = None
    """Which tokens the model generated, where it did."""

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, end: int) -> Part:
        return Part(
            self.ids[start:end],
            self.char_start[start:end],
            self.char_end[start:end],
            self.word_idx[start:end],
            self.is_special[start:end],
            None if self.types is None else self.types[start:end],
            None if self.is_response is None else self.is_response[start:end],
        )


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
    target_len: int | None = None
    """The most tokens of what the decoder is given, its first among them."""

    def sequencing(self) -> Sequencing:
        if self.target_column is None:
            return Sequencing(partial(tokenize, how=self), (self.side,), self.max_len)
        both = self.max_len is not None and self.target_len is not None
        longest = max(self.max_len or 0, self.target_len or 0) if both else None
        return Sequencing(partial(tokenize, how=self), ("dec", "enc"), longest)


def tokenize(examples: Iterable[Example], how: Tokenizing) -> Iterator[Tokenized]:
    """Texts longer than `max_len` tokens are cut, or with `chunk` go on as the next sequence of the same example.

    Raises UsageError where an example has no target and one is wanted, or has words and the tokenizer tells no offsets.
    """
    alters = altering(how.tokenizer)
    for group in grouped(examples):
        parts = [
            _with_words(p, e, how.tokenizer)
            for p, (_, e) in zip(encode(how.tokenizer, [e.text for _, e in group]), group, strict=True)
        ]
        targets: list[Part] | list[None] = [None] * len(group)
        if how.target_column is not None:
            texts = [_target(e, how.target_column) for _, e in group]
            targets = [
                replace(p, word_idx=np.full(len(p), -1)) if e.row.words else p
                for p, (_, e) in zip(
                    (_started(p, how.start_id) for p in encode(how.tokenizer, texts, target=True)), group, strict=True
                )
            ]
        for (idx, example), part, target in zip(group, parts, targets, strict=True):
            limit = how.max_len or max(len(part), 1)
            target_limit = how.target_len or len(target or ())
            cuts = range(0, len(part), limit) if how.chunk else range(0, min(len(part), 1), limit)
            sequences = [
                Sequence(
                    example, seq, _sides(how.side, part.cut(at, at + limit), target and target.cut(0, target_limit))
                )
                for seq, at in enumerate(cuts)
            ]
            truncated = (not how.chunk and len(part) > limit) or len(target or ()) > target_limit
            yield Tokenized(idx, example, sequences, truncated, alters(example.text))


def grouped(examples: Iterable[Example]) -> Iterator[list[tuple[int, Example]]]:
    """Numbered examples, as many at a time as are worth one call of a tokenizer."""
    numbered = enumerate(examples)
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        yield group


def altering(tokenizer: Any) -> Callable[[str], bool]:
    """Whether a tokenizer changes a text before it cuts it: its normalizer folds case or accents, or drops characters. Marks
    for spaces (▁) are not counted."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return lambda _: False

    def alters(text: str) -> bool:
        found: str = normalizer.normalize_str(text)
        return found.replace("▁", " ").strip() != text.strip()

    return alters


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


def encode(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None = None,
    *,
    target: bool = False,
    special: bool = True,
    max_len: int | None = None,
) -> list[Part]:
    """Each text's tokens, or those of a text and its pair, whose characters are counted as if a line break joined the two.

    `target`: as a target of an encoder-decoder; `special`: with the tokens that the tokenizer adds; `max_len`: texts are cut so
    that with their pairs they have no more tokens.
    """
    offsets = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        **{"text_target" if target else "text": texts},
        **({} if pairs is None else {"text_pair": pairs}),
        add_special_tokens=special,
        return_offsets_mapping=offsets,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
        **({"truncation": False} if max_len is None else {"truncation": "only_first", "max_length": max_len}),
    )
    found = []
    for i, text in enumerate(texts):
        ids = np.asarray(encoded["input_ids"][i], np.int64)
        added = np.asarray(encoded["special_tokens_mask"][i], bool)
        none = np.full(len(ids), -1)
        start, end, words = none, none, none
        if offsets and len(ids):
            start, end = np.asarray(encoded["offset_mapping"][i], np.int64).T
            words = np.asarray([-1 if w is None else w for w in encoded.word_ids(i)], np.int64)
            if pairs is not None:
                second = np.asarray([s == 1 for s in encoded.sequence_ids(i)])
                start, end = start + second * (len(text) + 1), end + second * (len(text) + 1)
                words = words + second * (words[~second].max(initial=-1) + 1)
            start, end = np.where(added, -1, start), np.where(added, -1, end)
        types = encoded["token_type_ids"][i] if pairs is not None and "token_type_ids" in encoded else None
        found.append(Part(ids, start, end, words, added, None if types is None else np.asarray(types, np.int64)))
    return found


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
    examples: Iterable[Tokenized], batch_tokens: int, pads: bool = True, together: bool = False, growth: int = 0
) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding counted, or of one sequence that is longer; without padding where
    `pads` is false. With `together` the sequences of an example are not parted, even where they are more. `growth`: so many
    tokens will be added to each sequence.

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
            uneven = not pads and waiting and _lengths(waiting[0]) != _lengths(unit[0])
            if uneven or (waiting and (len(waiting) + len(unit)) * (sum(wider.values()) + growth) > batch_tokens):
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


def _lengths(sequence: Sequence) -> dict[str, int]:
    return {side: len(part) for side, part in sequence.parts.items()}


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
