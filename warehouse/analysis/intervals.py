"""95 % intervals for a part of a whole, such as an accuracy, in closed form.

Wilson's interval (Wilson 1927) never is of no width, not even where all or none are right, and holds what it should with few
questions (Brown, Cai and DasGupta 2001). Rows that depend on each other, such as the tokens of a text, count for fewer than they
are: `by_group` says how many independent ones they are worth. A percentile bootstrap over groups comes to the same from 60 groups
on, and is too narrow below: with 8 groups and an accuracy of 0.8 its "95 %" held 81 to 90 % of the time in simulations, and this
one's 92 to 97 %; at 0.95, where few groups have a wrong row at all, 41 to 87 % against 96 to 98 %.
"""

from __future__ import annotations

import math

import numpy as np

_Z = 1.959963984540054
"""The 97.5 % quantile of a normal distribution."""


def wilson(part: float, n: float) -> tuple[float, float]:
    """Returns the ends of the interval of a part, 0 to 1, that was counted over n independent rows; n is above 0, whole or not."""
    z2 = _Z * _Z
    middle = part * n + z2 / 2
    half = math.sqrt(z2 * (n * part * (1 - part) + z2 / 4))
    return max(0.0, (middle - half) / (n + z2)), min(1.0, (middle + half) / (n + z2))


def accuracy_text(right: int, n: int) -> str:
    """Says how many of n independent questions were right, with the 95 % interval of that part."""
    low, high = wilson(right / n, n)
    return f"right: {right:,} of {n:,} ({right / n:.1%}, 95 % interval {low:.1%} to {high:.1%})"


def by_group(right: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the interval of the part of rows that are right, where rows of one group depend on each other.

    `right` (N,) is of booleans, `group` (N,) names the group of each, N being 1 or more. Where each row is a group, that is
    Wilson's interval. Else it is Wilson's for the number of independent rows whose part would vary as this one does from group to
    group (Korn and Graubard 1998: the variance of a ratio, Student's t for few groups), at most N; as many as there are groups
    where all rows, or none, are right. Needs scipy, which comes with scikit-learn.
    """
    from scipy import stats

    part = float(np.mean(right))
    inverse = np.unique(group, return_inverse=True)[1]
    counts = np.bincount(inverse)
    n, groups = len(inverse), len(counts)
    if groups == n:
        return wilson(part, n)
    if groups == 1:  # nothing is known of how groups differ
        return 0.0, 1.0
    off = np.bincount(inverse, weights=right) - part * counts
    variance = groups / (groups - 1) * float(off @ off) / n**2
    if part in (0, 1):
        effective = float(groups)
    else:
        effective = min(part * (1 - part) / variance, n) if variance > 0 else n
    return wilson(part, effective * (_Z / float(stats.t.ppf(0.975, groups - 1))) ** 2)
