"""How a trait's projection moves along a sequence: velocity, acceleration, and when the response commits.

The quantities are those of the trait-interp project (github.com/ewernn/trait-interp, `inference/monitor_dynamics.py`): velocity
and acceleration are the first and second difference of the projection, the commitment point is the first token at which the
absolute acceleration falls under 0.1, and persistence counts tokens after the peak above half of it. What is chosen otherwise
here, and why, is said where it is; docs/traits.md has all of it together.

Pure numpy, and all sequences and directions at once: projections come as (K, n), K directions by the n tokens of all sequences
end to end, `lengths` (S,) saying how many tokens each sequence has, at least one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

THRESHOLD = 0.1
"""Of the commitment point: in units of the projection, or of its spread."""

NO_TOKEN = -1
"""Of a token number: there is none."""


class Dynamics(NamedTuple):
    """Of every direction and sequence, (K, S) each. Tokens are counted from 0 at the sequence's first."""

    mean: np.ndarray
    """Of the projection, float64."""
    spread: np.ndarray
    """Standard deviation of the projection over the sequence's tokens (the population's: divided by their number), float64."""
    peak_velocity: np.ndarray
    """Largest absolute velocity; 0 where there is none, in a sequence of one token."""
    commitment: np.ndarray
    """First token whose absolute acceleration is under the threshold; `NONE`: there is none."""
    commitment_relative: np.ndarray
    """The same, the threshold being that part of spread. `NONE` for a constant projection, whose spread is 0."""
    peak: np.ndarray
    """The token with the largest projection, the first among equals."""
    persistence: np.ndarray
    """Tokens after the peak whose projection is above half of the peak's; 0 where the peak is not above 0."""


def token_numbers(lengths: np.ndarray) -> np.ndarray:
    """(n,): of every token, the how manyth of its sequence it is, from 0."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def differences(projection: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Velocity and acceleration, (K, n) each, in the projection's dtype.

    velocity[i] = projection[i] - projection[i-1], acceleration[i] = velocity[i] - velocity[i-1]: each stands at the later token,
    the one at which it can first be known. A sequence's first token has no velocity, its first two no acceleration: 0 there,
    never NaN.
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
    """What a sequence's projection does, in a few numbers; `velocity` and `acceleration` are those of `differences`.

    Two conventions differ from trait-interp's. There the commitment point is an index into the accelerations, whose first is
    the third token's; here it is the token. There the peak is the largest *absolute* projection, and persistence compares
    absolute values; here a projection far on the other side is the trait's opposite, not the trait: the peak is the largest
    projection, and where that is not above 0, half of it lies at or above it and nothing persists.
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
    """(K, S): the place in its sequence of the first token for which it is so; `NONE` where it is so for none."""
    never = np.iinfo(np.int64).max
    found: np.ndarray = np.minimum.reduceat(np.where(true, nth, never), starts, axis=1)
    return np.where(found == never, NO_TOKEN, found)
