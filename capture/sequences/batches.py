"""Texts → token sequences → batches of like length → shards. Pure generators; they know nothing of models or files.

Everything here is a function of the data and the options, so that a capture that was killed finds the same batches again,
and its shards, written or not, hold what they would have held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash

from capture.sequences.sequence import TokenizedExample, TokenSequence
from warehouse.storage.manifest import BATCHES

PADDED, ONE_LENGTH, ONE_TEXT = BATCHES

_WINDOW_EXAMPLES = 1024
_WINDOW_TOKENS = 1 << 18


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass, longest first. `examples` are those whose rows are due with it."""

    sequences: list[TokenSequence]
    resume_point: str
    """The data read so far: how many examples, and a hash over them."""
    examples: list[TokenizedExample] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return sum(s.n_tokens for s in self.sequences)

    @property
    def name(self) -> str:
        """The sequence that leads it; the same whichever process runs it."""
        return f"{self.sequences[0].example.example_id}.{self.sequences[0].seq}"

    def padded(self, pad_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By side: right-padded ids and mask, (B, T) int64 each."""
        return {side: _padded([s.sides[side].ids for s in self.sequences], pad_id) for side in self.sequences[0].sides}

    def padded_types(self) -> np.ndarray | None:
        """(B, T) int64, padding as 0, where the model is told which text of a pair a token is of."""
        types = [part.types for s in self.sequences for part in s.sides.values()]
        return None if types[0] is None else _padded([t for t in types if t is not None], 0)[0]


def _padded(rows: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def make_batches(
    examples: Iterable[TokenizedExample], batch_tokens: int, rule: str = PADDED, keep_together: bool = False, added_tokens: int = 0
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
        waiting: list[TokenSequence] = []
        widths: dict[str, int] = {}
        for unit in _units(window, keep_together):
            wider = dict(widths)
            for s in unit:
                wider = {side: max(len(part), wider.get(side, 0)) for side, part in s.sides.items()}
            apart = waiting and not _may_share_batch(waiting[0], unit[0], rule)
            if apart or (waiting and (len(waiting) + len(unit)) * (sum(wider.values()) + added_tokens) > batch_tokens):
                yield Batch(waiting, mark, due)
                waiting, due = [], []
                wider = {side: max(len(s.sides[side]) for s in unit) for side in unit[0].sides}
            waiting += unit
            widths = wider
        if waiting or due:
            yield Batch(waiting, mark, due)


def _units(window: list[TokenizedExample], together: bool) -> list[list[TokenSequence]]:
    """What is not parted, longest first."""
    units = [t.sequences for t in window if t.sequences] if together else [[s] for t in window for s in t.sequences]
    return sorted(units, key=lambda unit: max(s.n_tokens for s in unit), reverse=True)


def _may_share_batch(one: TokenSequence, other: TokenSequence, holds: str) -> bool:
    """Whether two sequences may share a batch."""
    return holds == PADDED or (holds == ONE_LENGTH and one.lengths == other.lengths)


def split_batch(batch: Batch, rule: str) -> Iterator[Batch]:
    """A batch whose sequences have become longer, as batches of what one may hold. Its examples come with the first."""
    if rule == PADDED or not batch.sequences:
        yield batch
        return
    due, left = batch.examples, batch.sequences
    while left:
        first = left[0]
        fitting = [s for s in left if s is first or _may_share_batch(first, s, rule)]
        left = [s for s in left if not any(s is other for other in fitting)]
        yield replace(batch, sequences=fitting, examples=due)
        due = []


def _windows(examples: Iterable[TokenizedExample]) -> Iterator[list[TokenizedExample]]:
    window: list[TokenizedExample] = []
    tokens = 0
    for t in examples:
        window.append(t)
        tokens += sum(s.n_tokens for s in t.sequences)
        if len(window) >= _WINDOW_EXAMPLES or tokens >= _WINDOW_TOKENS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def with_own_examples(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches whose examples are those of their sequences: for sequences that are not whole yet when their window is read.
    An example's sequences must be together.
    """
    waiting: dict[str, TokenizedExample] = {}
    for batch in batches:
        waiting |= {t.example.example_id: t for t in batch.examples}
        mine = dict.fromkeys(s.example.example_id for s in batch.sequences)
        yield replace(batch, examples=[waiting.pop(example_id) for example_id in mine])


def group_into_shards(batches: Iterable[Batch], tokens: int, added_tokens: int = 0) -> Iterator[list[Batch]]:
    """Batches in groups of at most `tokens` tokens, or of one batch that has more; `growth` as in `batches`."""
    group: list[Batch] = []
    total = 0
    for batch in batches:
        size = batch.n_tokens + added_tokens * len(batch.sequences)
        if group and total + size > tokens:
            yield group
            group, total = [], 0
        group.append(batch)
        total += size
    if group:
        yield group
