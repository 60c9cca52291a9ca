"""Proves, on a run's own data, that what a model makes of a text does not depend on the texts that share its batch, nor on those
that it read before; and finds the batches for which that holds.

Most models pass. Some choose their position factors by the longest row of a batch (LongRoPE), switch between kinds of attention
by it (BigBird), give experts only so many tokens of a batch, or draw random numbers: of those, batches hold texts of one length,
or one text, or nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from capture.data.example import Example, Row, Source
from capture.model.body import Body
from capture.recording.recorder import inputs
from capture.sequences.batches import ONE_LENGTH, ONE_TEXT, PADDED, Batch
from capture.sequences.encoding import SideTokens
from capture.sequences.sequence import TokenSequence
from warehouse.errors import TracesError
from warehouse.storage.manifest import Batches


class _Difference(NamedTuple):
    """Between two last states of the same tokens, relative to the size of each: at the worst token, and on average."""

    worst: float
    mean: float


_NOISE = {
    torch.float64: _Difference(1e-3, 1e-3),
    torch.float32: _Difference(1e-3, 1e-3),
    torch.float16: _Difference(0.1, 0.01),
    torch.bfloat16: _Difference(0.3, 0.05),
}
"""What other kernels for other shapes may make of it, layer after layer: 30 layers were seen to come to 2e-6 in float32 and to 2e-2 in
bfloat16, and an expert chosen otherwise for a near tie moves a token by more."""


@dataclass(frozen=True)
class Extremes:
    """The sequences of a run's data on which it would show."""

    longest: TokenSequence
    shortest: TokenSequence
    shared: tuple[TokenSequence, ...]
    """Of those that share a batch, longest first: the longest, one of about half its length, and the shortest."""


@dataclass(frozen=True)
class Found:
    batches: Batches
    """The most that a batch may hold: `padded`, `one length` or `one text`."""
    error: float = 0.0
    """How much of its last state a text's neighbours changed, at the worst token, where they did."""

    def line(self, name: str) -> str:
        """What a user should know of it; empty where nothing was found."""
        if self.batches == PADDED:
            return ""
        neighbours, holds = "the longest text in its batch", "texts of one length"
        if self.batches == ONE_TEXT:
            neighbours, holds = "the other texts in its batch", "one text"
        by = f" (by {self.error:.0e} of its last state here)" if self.error else ""
        return f"what {name} makes of a text depends on {neighbours}{by}: a batch holds {holds}"


def holds(body: Body) -> Batches:
    """What a batch may hold, as far as it is known."""
    return ONE_TEXT if not body.ignores_batch else PADDED if body.ignores_padding else ONE_LENGTH


def extremes(found: Iterable[Batch]) -> Extremes | None:
    """Of batches as they will be; None where there are no sequences."""
    every: list[TokenSequence] = []
    shared: dict[int, TokenSequence] = {}
    for batch in found:
        every = _ends([*every, *batch.sequences])
        if len(batch.sequences) > 1:
            ends = _ends([*shared.values(), *batch.sequences])
            sizes = {
                s.n_tokens.bit_length(): s for s in batch.sequences
            }  # a few of each size, however much data there is
            shared = sizes | shared | {-1: ends[0], 0: ends[1]}
    if not every:
        return None
    if not shared:
        return Extremes(every[0], every[1], ())
    long, short = shared.pop(-1), shared.pop(0)
    middle = min((*shared.values(), short), key=lambda s: abs(s.n_tokens - long.n_tokens / 2))
    return Extremes(
        every[0], every[1], (long, *([middle] if short.n_tokens < middle.n_tokens < long.n_tokens else []), short)
    )


def _ends(sequences: list[TokenSequence]) -> list[TokenSequence]:
    """The longest and the shortest, the first and the last of such."""
    if not sequences:
        return []
    return [max(sequences, key=lambda s: s.n_tokens), min(reversed(sequences), key=lambda s: s.n_tokens)]


def prove(body: Body, found: Extremes, name: str, growth: int = 0, window: int | None = None) -> Found:
    """What batches may hold. `growth`: so many tokens will be added to each sequence, as far as `window` allows.

    The longest and the shortest are read alone, those that share a batch together, and the shortest again. Raises TracesError
    where a text read a second time gives something else than before, `name` being the model's.
    """
    prover = _Prover(body)
    longest, shortest = (_grown(s, growth, window) for s in (found.longest, found.shortest))
    for s in (longest, shortest):
        prover.alone(s)
    proven = Found(holds(body))
    if found.shared:
        proven = prover.beside([_grown(s, growth, window) for s in found.shared])
    # what was found beside others may be a second reading's, not theirs: then the longest is read again too
    for s in (shortest,) if found.shared and not proven.error else (shortest, longest):
        if (error := prover.beyond(prover.last([s])[0], prover.alone(s))) is not None:
            raise TracesError(
                f"{name} makes something else of a text of {s.n_tokens} tokens when it reads it again (by {error:.0e} of its last "
                "state): it draws random numbers, or keeps something of what it read. What would be recorded is not the text's, "
                "so that it cannot be captured."
            )
    return proven


class _Prover:
    def __init__(self, body: Body) -> None:
        self._body, self._noise = body, _NOISE[body.model.dtype]
        self._alone: dict[int, tuple[TokenSequence, dict[str, torch.Tensor]]] = {}

    def last(self, sequences: list[TokenSequence]) -> list[dict[str, torch.Tensor]]:
        """Each sequence's last hidden states by side, (T, D), from one forward pass."""
        tokens, more = inputs(Batch(sequences, ""), self._body.model)
        with torch.no_grad():
            found = self._body(tokens, **more).last
        return [
            {side: found[side][i, : len(part)].float() for side, part in s.sides.items()}
            for i, s in enumerate(sequences)
        ]

    def alone(self, sequence: TokenSequence) -> dict[str, torch.Tensor]:
        """What the first reading of a sequence by itself gave, (T, D) by side."""
        if id(sequence) not in self._alone:
            self._alone[id(sequence)] = sequence, self.last([sequence])[0]
        return self._alone[id(sequence)][1]

    def beside(self, sequences: list[TokenSequence]) -> Found:
        """The most that a batch of sequences like these may hold, the longest first: all together, and where that changes them, the
        longest with another of its length.
        """
        long, short = sequences[0], sequences[-1]
        error = self._changed(sequences) if self._body.ignores_padding or long.lengths == short.lengths else 0.0
        if error is None:
            return Found(PADDED)
        changed = self._changed([long, _like(long, short)])
        return Found(ONE_LENGTH, error) if changed is None else Found(ONE_TEXT, changed)

    def _changed(self, sequences: list[TokenSequence]) -> float | None:
        """By how much reading sequences together changes the worst of them; None where noise explains it."""
        errors = [self.beyond(x, self.alone(s)) for s, x in zip(sequences, self.last(sequences), strict=True)]
        return max((e for e in errors if e is not None), default=None)

    def beyond(self, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float | None:
        """How far states differ at the worst token, where noise does not explain it."""
        rows = [(found[side] - y).norm(dim=-1) / y.norm(dim=-1).clamp(min=1e-30) for side, y in expected.items()]
        error = torch.nan_to_num(torch.cat(rows), nan=float("inf"))
        worst, mean = float(error.max()), float(error.mean())
        return worst if worst > self._noise.worst or mean > self._noise.mean else None


def sequence(ids: Mapping[str, np.ndarray]) -> TokenSequence:
    """Tokens, (T,) by side, that are of no example."""
    example = Example(Source("", None, None, "", lambda: iter(())), Row("", ""), "")
    return TokenSequence(example, 0, {side: _of_ids(row, None) for side, row in ids.items()})


def _grown(sequence: TokenSequence, growth: int, window: int | None) -> TokenSequence:
    """As long as it may become: its own tokens once more."""
    if not growth:
        return sequence
    ((side, part),) = sequence.sides.items()  # a decoder's alone: what goes on with a text has no other
    length = min(len(part) + growth, window or len(part) + growth)
    return replace(sequence, sides={side: _of_ids(np.resize(part.ids, length), None)})


def _like(long: TokenSequence, short: TokenSequence) -> TokenSequence:
    """Another text of the same lengths: the shorter one's tokens, over and over."""
    return replace(
        long,
        sides={
            side: _of_ids(np.resize(short.sides[side].ids, len(part)), part.types) for side, part in long.sides.items()
        },
    )


def _of_ids(ids: np.ndarray, types: np.ndarray | None) -> SideTokens:
    none = np.full(len(ids), -1)
    return SideTokens(ids, none, none, none, np.zeros(len(ids), bool), types)
