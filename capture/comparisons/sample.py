"""The tokens over which layers, directions and heads of two models are compared, in groups of examples that vary independently.

At most `_SEQUENCES` sequences are drawn, and of each as many tokens as make up the number that is asked for. The first token of a
sequence is left out: in many models its state is hundreds of times longer than all others, the same whatever the text, and would be
all that a similarity of states sees.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from capture.comparisons.jackknife import GROUPS
from capture.comparisons.run_pair import RunPair
from capture.comparisons.shared_tokens import SharedTokens, shared_tokens

_SEQUENCES = 256
"""Sequences that are read at most: their attention is computed whole."""
LEAST_GROUPS = 5
"""Examples that it takes to say how a number varies with them."""
_BLOCKS = 8
"""With fewer examples, groups are stretches of text: so many."""


class Sample(NamedTuple):
    """Tokens in groups."""

    pieces: list[SharedTokens]
    """The sequences and their tokens, group after group."""
    bounds: np.ndarray
    """Where each group of tokens begins, and the number of tokens: (G + 1,)."""
    examples: int
    by_example: bool
    """Whether groups are of examples, so that they tell how a number varies; else they are stretches of text."""

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return int(self.bounds[-1])


def draw_sample(pair: RunPair, tokens: int, seed: int) -> Sample:
    """Draw tokens that two runs share.

    Args:
        pair: The runs.
        tokens: How many, at most.
        seed: Of the draw.

    Returns:
        The tokens; none where the runs share only first tokens.
    """
    random = np.random.default_rng(seed)
    lengths = np.array([int((s.positions > 0).sum()) for s in shared_tokens(pair)])
    drawn = random.permutation(np.flatnonzero(lengths))[:_SEQUENCES]
    quota = _quota(lengths[drawn], tokens)
    wanted = set(drawn.tolist())
    pieces = [_draw_tokens(s, quota, random) for number, s in enumerate(shared_tokens(pair)) if number in wanted]
    by_example: dict[str, list[SharedTokens]] = {}
    for piece in pieces:
        by_example.setdefault(piece.example_id, []).append(piece)
    order = random.permutation(list(by_example)).tolist()
    pieces = [piece for example in order for piece in by_example[example]]
    if len(order) < LEAST_GROUPS:
        n = sum(len(p.positions) for p in pieces)
        bounds = np.unique(np.linspace(0, n, _BLOCKS + 1).astype(int))
        return Sample(pieces, bounds, len(order), False)
    ends = np.cumsum([sum(len(p.positions) for p in by_example[example]) for example in order])
    return Sample(pieces, _even_bounds(ends, min(GROUPS, len(order))), len(order), True)


def _quota(lengths: np.ndarray, tokens: int) -> int:
    """Return the most tokens of a sequence, so that all together are at most as many as wanted, but one of each."""
    low, high = 1, max(1, int(lengths.max(initial=1)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= tokens else (low, middle - 1)
    return low


def _draw_tokens(shared: SharedTokens, quota: int, random: np.random.Generator) -> SharedTokens:
    """Return a sequence with at most so many of its tokens, its first left out."""
    at = np.flatnonzero(shared.positions > 0)
    at = np.sort(random.choice(at, min(quota, len(at)), replace=False))
    return shared._replace(
        positions=shared.positions[at],
        other_positions=shared.other_positions[at],
        losses=shared.losses[at],
        other_losses=shared.other_losses[at],
    )


def _even_bounds(ends: np.ndarray, groups: int) -> np.ndarray:
    """Cut examples that end at `ends` tokens into groups of about the same number of tokens, each of one example or more."""
    bounds = [0]
    for group in range(1, groups):
        wanted, last = ends[-1] * group / groups, len(ends) - (groups - group)
        first = int(np.searchsorted(ends, bounds[-1], "right"))  # the first example that is in no group yet
        at = int(np.clip(np.searchsorted(ends, wanted), first, last - 1))
        bounds.append(int(ends[at]))
    return np.array([*bounds, int(ends[-1])])
