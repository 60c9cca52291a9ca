"""Dynamics against numbers worked out by hand, and against each sequence looked at alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capture.traits.dynamics import NO_TOKEN, THRESHOLD, Dynamics, differences, summarize_sequences, token_numbers


def of(*sequences: list[float], threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray, Dynamics]:
    """One direction over these sequences: velocity and acceleration, (n,), and the rest, (1, S)."""
    lengths = np.array([len(s) for s in sequences])
    p = np.concatenate(sequences)[None].astype(np.float32)
    velocity, acceleration = differences(p, lengths)
    return velocity[0], acceleration[0], summarize_sequences(p, lengths, velocity, acceleration, threshold)


def values(found: Dynamics, sequence: int = 0) -> dict[str, Any]:
    return {name: getattr(found, name)[0, sequence].item() for name in found._fields}


def test_a_sequence_worked_out_by_hand() -> None:
    #           token      0  1  2  3    4    5  6
    v, a, found = of([0.0, 1, 4, 6, 8.0625, 5, 3])
    np.testing.assert_array_equal(v, [0, 1, 3, 2, 2.0625, -3.0625, -2])
    np.testing.assert_array_equal(a, [0, 0, 2, -1, 0.0625, -5.125, 1.0625])
    told = values(found)
    assert told["mean"] == pytest.approx(27.0625 / 7)
    assert told["spread"] == pytest.approx(np.std([0, 1, 4, 6, 8.0625, 5, 3]))
    assert told["peak_velocity"] == 3.0625, "the fall after the peak is faster than the rise"
    assert told["commitment"] == 4, "the token itself, not the place among the accelerations"
    assert told["commitment_relative"] == 4, "0.0625 is under a tenth of 2.6"
    assert told["peak"] == 4
    assert told["persistence"] == 1, "5 is above 4.03, 3 is not"


def test_the_relative_threshold_does_not_depend_on_scale() -> None:
    p = [0.0, 1, 4, 6, 8.0625, 5, 3]
    small, large = (values(of([x * scale for x in p])[2]) for scale in (1 / 64, 64.0))
    assert (small["commitment"], large["commitment"]) == (2, NO_TOKEN), "the absolute one does"
    assert small["commitment_relative"] == large["commitment_relative"] == 4


def test_one_token_and_two_have_no_acceleration() -> None:
    v, a, found = of([3.0], [3.0, -1])
    np.testing.assert_array_equal(v, [0, 0, -4])
    np.testing.assert_array_equal(a, [0, 0, 0])
    assert values(found, 0) == {
        "mean": 3, "spread": 0, "peak_velocity": 0, "commitment": NO_TOKEN, "commitment_relative": NO_TOKEN, "peak": 0, "persistence": 0,
    }  # fmt: skip
    assert values(found, 1) == {
        "mean": 1, "spread": 2, "peak_velocity": 4, "commitment": NO_TOKEN, "commitment_relative": NO_TOKEN, "peak": 0, "persistence": 0,
    }  # fmt: skip


def test_a_constant_projection_is_committed_from_the_first_token_that_can_tell() -> None:
    _, _, found = of([2.0] * 4)
    assert values(found) == {
        "mean": 2, "spread": 0, "peak_velocity": 0, "commitment": 2, "commitment_relative": NO_TOKEN, "peak": 0, "persistence": 3,
    }  # fmt: skip


def test_a_peak_that_is_not_above_zero_does_not_persist() -> None:
    _, _, found = of([-5.0, -1, -1, -9], [0.0, 0, -1])
    assert (values(found, 0)["peak"], values(found, 0)["persistence"]) == (1, 0)
    assert (values(found, 1)["peak"], values(found, 1)["persistence"]) == (0, 0)


def test_sequences_and_directions_together_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 40, 1, 17])
    p = rng.standard_normal((3, lengths.sum())).astype(np.float32)
    velocity, acceleration = differences(p, lengths)
    found = summarize_sequences(p, lengths, velocity, acceleration, 0.5)
    for k in range(len(p)):
        for s, part in enumerate(np.split(p[k], np.cumsum(lengths)[:-1])):
            v, a, alone = of(part.tolist(), threshold=0.5)
            mine = np.arange(lengths[s]) + lengths[:s].sum()
            np.testing.assert_array_equal(velocity[k, mine], v)
            np.testing.assert_array_equal(acceleration[k, mine], a)
            np.testing.assert_array_equal(v[1:], np.diff(part))
            np.testing.assert_array_equal(a[2:], np.diff(part, 2) if len(part) > 2 else [])
            for name in found._fields:
                assert getattr(found, name)[k, s] == getattr(alone, name)[0, 0], (name, k, s)


def test_nothing_is_nan() -> None:
    _, _, found = of([0.0], [0.0, 0.0], [1e30, -1e30, 1e30, 1e30])
    assert all(np.isfinite(getattr(found, name)).all() for name in found._fields)


def test_places() -> None:
    assert token_numbers(np.array([1, 3, 2])).tolist() == [0, 0, 1, 2, 0, 1]
