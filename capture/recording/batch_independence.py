"""The proof, on a run's own data, that a text's states do not depend on the texts in its batch, or on those read before.

In go a model's body and the batches that a capture will run; out comes a `Proof`: the most that a batch may hold so that this is
true. Jobs call it before the first batch, `model_check` on two short texts.

Most models pass with any batch. Some choose their position factors by the longest row of a batch (LongRoPE), switch between
kinds of attention by it (BigBird), or give experts a limited number of tokens of a batch: their batches hold texts of one
length, or one text. Some draw random numbers: those are not captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from capture.data.example import Example, Row, Source
from capture.model.body import Body
from capture.recording.recorder import model_inputs
from capture.sequences.batches import ONE_LENGTH, ONE_TEXT, PADDED, Batch
from capture.sequences.sequence import SideTokens, TokenSequence
from warehouse.errors import TracesError
from warehouse.storage.manifest import Batches


class _Difference(NamedTuple):
    """How far two last states of the same tokens differ, relative to the size of each: at the worst token, and on average."""

    worst: float
    mean: float


_NOISE = {
    torch.float64: _Difference(1e-3, 1e-3),
    torch.float32: _Difference(1e-3, 1e-3),
    torch.float16: _Difference(0.1, 0.01),
    torch.bfloat16: _Difference(0.3, 0.05),
}
"""How much rounding may differ where another batch shape runs another kernel. Over 30 layers, 2e-6 was seen in float32 and 2e-2 in
bfloat16; where experts nearly tie, another choice moves a token by more."""


@dataclass(frozen=True)
class ExtremeSequences:
    """The sequences of a run's data that would show a dependence."""

    longest: TokenSequence
    shortest: TokenSequence
    shared: tuple[TokenSequence, ...]
    """Of those that share a batch, longest first: the longest, one of about half its length, and the shortest."""


@dataclass(frozen=True)
class Proof:
    """What batches may hold, as the model was seen to compute."""

    batches: Batches
    """The most that a batch may hold: `padded`, `one length` or `one text`."""
    error: float = 0.0
    """By how much of its last state a text was changed by its neighbours, at the worst token; 0 where it was not."""

    def line(self, name: str) -> str:
        """Return what a user should know about the model `name`; empty where batches may hold anything."""
        if self.batches == PADDED:
            return ""
        neighbours, rule = "the longest text in its batch", "texts of one length"
        if self.batches == ONE_TEXT:
            neighbours, rule = "the other texts in its batch", "one text"
        by = f" (by {self.error:.0e} of its last state here)" if self.error else ""
        return f"what {name} makes of a text depends on {neighbours}{by}: a batch holds {rule}"


def known_rule(body: Body) -> Batches:
    """Return what a batch may hold, as far as is known without a proof."""
    return ONE_TEXT if not body.ignores_batch else PADDED if body.ignores_padding else ONE_LENGTH


def find_extremes(batches: Iterable[Batch]) -> ExtremeSequences | None:
    """Find the sequences to prove a batch rule on.

    Args:
        batches: Those that will go through the model.

    Returns:
        The extremes of their lengths; None where there are no sequences.
    """
    overall: list[TokenSequence] = []
    shared: list[TokenSequence] = []
    by_size: dict[int, TokenSequence] = {}
    """One of each size in powers of two, however much data there is."""
    for batch in batches:
        overall = _longest_and_shortest([*overall, *batch.sequences])
        if len(batch.sequences) > 1:
            shared = _longest_and_shortest([*shared, *batch.sequences])
            by_size = {s.n_tokens.bit_length(): s for s in batch.sequences} | by_size
    if not overall:
        return None
    if not shared:
        return ExtremeSequences(overall[0], overall[1], ())
    long, short = shared
    middle = min((*by_size.values(), short), key=lambda s: abs(s.n_tokens - long.n_tokens / 2))
    return ExtremeSequences(
        overall[0], overall[1], (long, *([middle] if short.n_tokens < middle.n_tokens < long.n_tokens else []), short)
    )


def _longest_and_shortest(sequences: list[TokenSequence]) -> list[TokenSequence]:
    """Return the first of the longest sequences and the last of the shortest; nothing for nothing."""
    if not sequences:
        return []
    return [max(sequences, key=lambda s: s.n_tokens), min(reversed(sequences), key=lambda s: s.n_tokens)]


def prove(body: Body, extremes: ExtremeSequences, name: str, growth: int = 0, window: int | None = None) -> Proof:
    """Prove what batches may hold.

    The longest and the shortest sequence are read alone, then those that share a batch together, and the shortest again unless it
    has been read a second time among those and gave the same.

    Args:
        body: The model.
        extremes: The sequences to read.
        name: What messages call the model.
        growth: Tokens that will be added to each sequence.
        window: The most tokens that a sequence may then have; None: any number.

    Returns:
        The most that a batch may hold so that each text gives what it gives alone.

    Raises:
        TracesError: A text that is read a second time gives something else than before.
    """
    prover = _Prover(body)
    asked = (extremes.longest, extremes.shortest, *extremes.shared)
    lengthened = {id(s): _lengthen(s, growth, window) for s in asked}
    longest, shortest, *shared = (lengthened[id(s)] for s in asked)
    for s in (longest, shortest):
        prover.states_alone(s)
    proof = Proof(known_rule(body))
    if shared:
        proof = prover.prove_shared(shared)
    if shared and proof.batches == PADDED:
        again = [] if any(s is shortest for s in shared) else [shortest]
    else:  # a difference beside others may come from reading a second time, not from them: the longest is read again too
        again = [shortest] if shared and not proof.error else [shortest, longest]
    for s in again:
        if (error := prover.error_beyond_noise(prover.last_states([s])[0], prover.states_alone(s))) is not None:
            raise TracesError(
                f"{name} makes something else of a text of {s.n_tokens} tokens when it reads it again (by {error:.0e} of its last "
                "state): it draws random numbers, or keeps something of what it read. What would be recorded is not the text's, "
                "so that it cannot be captured."
            )
    return proof


class _Prover:
    """Reads sequences alone and together, and compares their last states."""

    def __init__(self, body: Body) -> None:
        self._body, self._noise = body, _NOISE[body.model.dtype]
        self._alone: dict[int, tuple[TokenSequence, dict[str, torch.Tensor]]] = {}

    def last_states(self, sequences: list[TokenSequence]) -> list[dict[str, torch.Tensor]]:
        """Return each sequence's last hidden states by side, (T, D), from one forward pass."""
        tokens, more = model_inputs(Batch(sequences, ""), self._body.model)
        with torch.no_grad():
            last = self._body(tokens, **more).last
        return [
            {side: last[side][i, : len(part)].float() for side, part in s.sides.items()}
            for i, s in enumerate(sequences)
        ]

    def states_alone(self, sequence: TokenSequence) -> dict[str, torch.Tensor]:
        """Return the last states of a sequence's first reading alone, (T, D) by side."""
        if id(sequence) not in self._alone:
            self._alone[id(sequence)] = sequence, self.last_states([sequence])[0]
        return self._alone[id(sequence)][1]

    def prove_shared(self, sequences: list[TokenSequence]) -> Proof:
        """Prove what a batch of sequences like these, longest first, may hold."""
        # All are read together; where that changes them, the longest with another of its length.
        long, short = sequences[0], sequences[-1]
        error = self._error_together(sequences) if self._body.ignores_padding or long.lengths == short.lengths else 0.0
        if error is None:
            return Proof(PADDED)
        same_length_error = self._error_together([long, _with_lengths_of(long, short)])
        return Proof(ONE_LENGTH, error) if same_length_error is None else Proof(ONE_TEXT, same_length_error)

    def _error_together(self, sequences: list[TokenSequence]) -> float | None:
        """Return how much reading sequences together changes the worst of them; None where noise explains it."""
        together = self.last_states(sequences)
        errors = [self.error_beyond_noise(x, self.states_alone(s)) for s, x in zip(sequences, together, strict=True)]
        return max((e for e in errors if e is not None), default=None)

    def error_beyond_noise(self, states: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float | None:
        """Return how far states differ at the worst token; None where noise explains it."""
        rows = [(states[side] - y).norm(dim=-1) / y.norm(dim=-1).clamp(min=1e-30) for side, y in expected.items()]
        error = torch.nan_to_num(torch.cat(rows), nan=float("inf"))
        worst, mean = float(error.max()), float(error.mean())
        return worst if worst > self._noise.worst or mean > self._noise.mean else None


def make_sequence(ids: Mapping[str, np.ndarray]) -> TokenSequence:
    """Return a sequence of tokens (T,) by side that belongs to no example."""
    example = Example(Source("", None, None, "", lambda: iter(())), Row("", ""), "")
    return TokenSequence(example, 0, {side: _side_tokens(row, None) for side, row in ids.items()})


def _lengthen(sequence: TokenSequence, growth: int, window: int | None) -> TokenSequence:
    """Return a sequence as long as it may become, its own tokens repeated."""
    if not growth:
        return sequence
    ((side, part),) = sequence.sides.items()  # what goes on with a text has a decoder alone
    length = min(len(part) + growth, window or len(part) + growth)
    return replace(sequence, sides={side: _side_tokens(np.resize(part.ids, length), None)})


def _with_lengths_of(long: TokenSequence, short: TokenSequence) -> TokenSequence:
    """Return another text of the lengths of `long`: the tokens of `short`, repeated."""
    return replace(
        long,
        sides={
            side: _side_tokens(np.resize(short.sides[side].ids, len(part)), part.types)
            for side, part in long.sides.items()
        },
    )


def _side_tokens(ids: np.ndarray, types: np.ndarray | None) -> SideTokens:
    none = np.full(len(ids), -1)
    return SideTokens(ids, none, none, none, np.zeros(len(ids), bool), types)
