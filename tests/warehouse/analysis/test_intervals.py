"""Intervals: scipy's where rows are independent, and as wide as the truth needs where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from warehouse.analysis import intervals


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 60), (60, 60), (17, 60), (500, 1221)])
def test_wilson(right: int, n: int) -> None:
    known = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert intervals.wilson(right / n, n) == pytest.approx((known.low, known.high), abs=1e-12)
    rows = np.arange(n) < right
    assert intervals.wilson_by_group(rows, np.arange(n)[::-1]) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("accuracy", [0.5, 0.8])
def test_an_interval_over_groups_holds_the_truth_as_often_as_it_says(accuracy: float) -> None:
    """13 texts of 4 to 24 tokens whose own accuracies differ: 95 % of intervals are right, and of those that take tokens for
    independent far fewer. 400 of them are counted, to 0.011 (a standard error)."""
    rng = np.random.default_rng(0)
    over_groups = over_rows = 0
    for _ in range(400):
        counts = rng.integers(4, 25, 13)
        group = np.repeat(np.arange(13), counts)
        right = rng.random(len(group)) < np.repeat(rng.beta(2 * accuracy, 2 * (1 - accuracy), 13), counts)
        low, high = intervals.wilson_by_group(right, group)
        over_groups += low <= accuracy <= high
        low, high = intervals.wilson(right.mean(), len(right))
        over_rows += low <= accuracy <= high
    assert over_groups / 400 > 0.92 and over_rows / 400 < 0.75


def test_the_ends_of_what_can_be() -> None:
    """One group says nothing of others; all right is not certain; rows are never worth more than they are."""
    assert intervals.wilson_by_group(np.ones(9, bool), np.zeros(9)) == (0, 1)
    low, high = intervals.wilson_by_group(np.ones(9, bool), np.repeat([1, 2, 3], 3))
    assert high == pytest.approx(1) and low < intervals.wilson(1, 3)[0] < intervals.wilson(1, 9)[0]
    alike = np.tile([True, False], 10)
    low, high = intervals.wilson_by_group(alike, np.repeat(np.arange(10), 2))
    known = intervals.wilson(0.5, 20)
    assert low < known[0] and high > known[1]
