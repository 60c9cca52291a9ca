"""Groups token sequences into batches of like length, and batches into shards.

In: tokenized examples, in the order of the data. Out: `Batch`es, each with the examples whose rows are due with it; then lists
of batches that make one shard. `capture.jobs.run_job` runs them. Pure generators, which know nothing of models or files.

Everything here is a function of the data and the options, so that a capture that was killed makes the same batches again, and
its shards hold what they would have held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash

from capture.sequences.sequence import TokenizedExample, TokenSequence
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import BATCHES

PADDED, ONE_LENGTH, ONE_TEXT = BATCHES
"""What a batch may hold: sequences of any lengths, padded; sequences of one length; or a single sequence."""

_WINDOW_EXAMPLES = 1024
_WINDOW_TOKENS = 1 << 18


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass."""

    sequences: list[TokenSequence]
    """The sequences, longest first."""
    resume_point: str
    """The data read so far: how many examples, and a hash over them."""
    examples: list[TokenizedExample] = field(default_factory=list)
    """The examples whose own rows are written with this batch."""

    @property
    def n_tokens(self) -> int:
        """The number of tokens, padding not counted."""
        return sum(s.n_tokens for s in self.sequences)

    @property
    def name(self) -> str:
        """The name of its first sequence, the same whichever process runs it."""
        return f"{self.sequences[0].example.example_id}.{self.sequences[0].seq}"

    def padded(self, pad_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return right-padded ids and mask by side, (B, T) int64 each."""
        return {side: _pad([s.sides[side].ids for s in self.sequences], pad_id) for side in self.sequences[0].sides}

    def padded_types(self) -> np.ndarray | None:
        """Return `token_type_ids`, (B, T) int64 padded with 0; None where the model is not told a token's text of a pair."""
        types = [tokens.types for s in self.sequences for tokens in s.sides.values()]
        return None if types[0] is None else _pad([t for t in types if t is not None], 0)[0]


def _pad(rows: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad rows of ids to (B, T), and return them with their mask."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def make_batches(
    examples: Iterable[TokenizedExample],
    batch_tokens: int,
    rule: str = PADDED,
    keep_together: bool = False,
    added_tokens: int = 0,
) -> Iterator[Batch]:
    """Group sequences into batches for one forward pass each.

    Sequences are sorted by length within a window of the data, so that there is little padding and memory stays flat. The
    examples' own rows come with the first batch of their window.

    Args:
        examples: Tokenized examples, in the order of the data.
        batch_tokens: The most tokens of a batch, padding counted; a sequence that is longer has a batch of its own.
        rule: What a batch may hold: `PADDED`, `ONE_LENGTH` or `ONE_TEXT`.
        keep_together: Keep the sequences of an example in one batch, even where they are more than `batch_tokens`.
        added_tokens: The number of tokens that generation will add to each sequence.

    Yields:
        The batches.
    """
    digest, count = xxhash.xxh3_128(), 0
    for window in _windows(examples):
        for t in window:
            digest.update(f"{t.example.example_id}\x1f{t.example.text}\x1e".encode("utf-8", "surrogatepass"))
        count += len(window)
        resume_point = f"{count} {digest.hexdigest()}"
        due = window
        waiting: list[TokenSequence] = []
        widths: dict[str, int] = {}
        for unit in _units(window, keep_together):
            wider = dict(widths)
            for s in unit:
                wider = {side: max(len(tokens), wider.get(side, 0)) for side, tokens in s.sides.items()}
            apart = waiting and not may_share_batch([waiting[0], unit[0]], rule)
            if apart or (waiting and (len(waiting) + len(unit)) * (sum(wider.values()) + added_tokens) > batch_tokens):
                yield Batch(waiting, resume_point, due)
                waiting, due = [], []
                wider = {side: max(len(s.sides[side]) for s in unit) for side in unit[0].sides}
            waiting += unit
            widths = wider
        if waiting or due:
            yield Batch(waiting, resume_point, due)


def _units(window: list[TokenizedExample], keep_together: bool) -> list[list[TokenSequence]]:
    """Return the groups of sequences that must not be split, longest first."""
    units = (
        [t.sequences for t in window if t.sequences] if keep_together else [[s] for t in window for s in t.sequences]
    )
    return sorted(units, key=lambda unit: max(s.n_tokens for s in unit), reverse=True)


def may_share_batch(sequences: list[TokenSequence], rule: str) -> bool:
    """Return whether sequences may share a batch."""
    same_length = all(s.lengths == sequences[0].lengths for s in sequences)
    return rule == PADDED or len(sequences) < 2 or (rule == ONE_LENGTH and same_length)


def split_batch(batch: Batch, rule: str) -> Iterator[Batch]:
    """Split a batch whose sequences have grown into batches that the rule allows; its examples come with the first."""
    if rule == PADDED or not batch.sequences:
        yield batch
        return
    due, left = batch.examples, batch.sequences
    while left:
        first = left[0]
        fitting = [s for s in left if s is first or may_share_batch([first, s], rule)]
        left = [s for s in left if not any(s is other for other in fitting)]
        yield replace(batch, sequences=fitting, examples=due)
        due = []


def _windows(examples: Iterable[TokenizedExample]) -> Iterator[list[TokenizedExample]]:
    """Yield runs of examples within which sequences are sorted by length."""
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
    """Move each example to the batch of its sequences, for sequences that are not complete when their window is read.

    Args:
        batches: Batches that were made with `keep_together`.

    Yields:
        The same batches, each with the examples of its own sequences.
    """
    waiting: dict[str, TokenizedExample] = {}
    for batch in batches:
        waiting |= {t.example.example_id: t for t in batch.examples}
        example_ids = dict.fromkeys(s.example.example_id for s in batch.sequences)
        yield replace(batch, examples=[waiting.pop(example_id) for example_id in example_ids])


def group_into_shards(batches: Iterable[Batch], tokens: int, added_tokens: int = 0) -> Iterator[list[Batch]]:
    """Group batches into shards.

    Args:
        batches: The batches, in order.
        tokens: The most tokens of a shard; a batch that has more is a shard of its own.
        added_tokens: The number of tokens that generation will add to each sequence.

    Returns:
        The batches of each shard.
    """
    return group_by_size(batches, lambda b: b.n_tokens + added_tokens * len(b.sequences), tokens)
