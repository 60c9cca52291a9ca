"""How a trait's projection moves along a sequence: velocity, acceleration, and when the response commits.

The quantities are those of the trait-interp project (github.com/ewernn/trait-interp, `inference/monitor_dynamics.py`): velocity
and acceleration are the first and second difference of the projection, the commitment point is the first token at which the
absolute acceleration falls under 0.1, and persistence counts tokens after the peak above half of it. Where we differ, the function
says why; docs/traits.md has all of it together.

Pure numpy, for all sequences and directions at once: projections are (K, n), K directions by the n tokens of all sequences end to
end; `lengths` (S,) says how many tokens each sequence has, at least one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

THRESHOLD = 0.1
"""Of the commitment point: in units of the projection, or relative to its spread."""

NO_TOKEN = -1
"""Stands for a token number where no token qualifies."""


class Dynamics(NamedTuple):
    """How projections move along sequences: (K, S) arrays; tokens are counted from 0 at the sequence's first."""

    mean: np.ndarray
    """Mean of the projection, float64."""
    spread: np.ndarray
    """Standard deviation of the projection over the sequence's tokens (the population's: divided by their number), float64."""
    peak_velocity: np.ndarray
    """Largest absolute velocity; 0 in a sequence of one token, which has none."""
    commitment: np.ndarray
    """First token whose absolute acceleration is under the threshold; `NO_TOKEN` where there is none."""
    commitment_relative: np.ndarray
    """The same with the threshold times `spread`. `NO_TOKEN` for a constant projection, whose spread is 0."""
    peak: np.ndarray
    """The token with the largest projection, the first among equals."""
    persistence: np.ndarray
    """Tokens after the peak whose projection is above half of the peak's; 0 where the peak is not above 0."""


def token_numbers(lengths: np.ndarray) -> np.ndarray:
    """Return the number of every token within its own sequence, counted from 0: (n,)."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def differences(projection: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and second differences of projections along their sequences.

    velocity[i] = projection[i] - projection[i-1], acceleration[i] = velocity[i] - velocity[i-1]: each stands at the later token,
    the first at which it can be known.

    Args:
        projection: (K, n).
        lengths: (S,).

    Returns:
        Velocity and acceleration, (K, n) each, in the projection's dtype. A sequence's first token has no velocity and its first
        two no acceleration: they are 0 there, never NaN.
    """
    nth = token_numbers(lengths)
    velocity = np.zeros_like(projection)
    np.subtract(projection[:, 1:], projection[:, :-1], out=velocity[:, 1:])
    velocity[:, nth < 1] = 0
    acceleration = np.zeros_like(projection)
    np.subtract(velocity[:, 1:], velocity[:, :-1], out=acceleration[:, 1:])
    acceleration[:, nth < 2] = 0
    return velocity, acceleration


def summarize_sequences(
    projection: np.ndarray,
    lengths: np.ndarray,
    velocity: np.ndarray,
    acceleration: np.ndarray,
    threshold: float = THRESHOLD,
) -> Dynamics:
    """Summarize how each sequence's projection moves.

    Two conventions differ from trait-interp's. There the commitment point is an index into the accelerations, whose first is
    the third token's; here it is the token. There the peak is the largest *absolute* projection, and persistence compares
    absolute values; here a projection far on the other side is the trait's opposite, not the trait: the peak is the largest
    projection, and where that is not above 0, half of it lies at or above it and nothing persists.

    Args:
        projection: (K, n).
        lengths: (S,).
        velocity: (K, n), of `differences`.
        acceleration: (K, n), of `differences`.
        threshold: The absolute acceleration below which a response counts as committed.

    Returns:
        One number of each kind a direction and sequence.
    """
    starts = np.cumsum(lengths) - lengths
    nth = token_numbers(lengths)
    mean = np.add.reduceat(projection, starts, axis=1, dtype=np.float64) / lengths
    deviation = projection - np.repeat(mean, lengths, axis=1)
    spread = np.sqrt(np.add.reduceat(deviation * deviation, starts, axis=1) / lengths)
    highest = np.maximum.reduceat(projection, starts, axis=1)
    peak = _first_true(projection == np.repeat(highest, lengths, axis=1), nth, starts)
    after = nth > np.repeat(peak, lengths, axis=1)
    above = projection > np.repeat(highest / 2, lengths, axis=1)
    size = np.abs(acceleration)
    known = nth >= 2
    return Dynamics(
        mean=mean,
        spread=spread,
        peak_velocity=np.maximum.reduceat(np.abs(velocity), starts, axis=1),
        commitment=_first_true((size < threshold) & known, nth, starts),
        commitment_relative=_first_true((size < threshold * np.repeat(spread, lengths, axis=1)) & known, nth, starts),
        peak=peak,
        persistence=np.add.reduceat(after & above, starts, axis=1, dtype=np.int64),
    )


def _first_true(true: np.ndarray, nth: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the number of each sequence's first token for which `true` holds, else `NO_TOKEN`: (K, S)."""
    never = np.iinfo(np.int64).max
    first: np.ndarray = np.minimum.reduceat(np.where(true, nth, never), starts, axis=1)
    return np.where(first == never, NO_TOKEN, first)
