"""95 % intervals for a part of a whole, such as an accuracy, in closed form.

Rows that depend on each other count for fewer than they are: tokens of one text, or responses to one question. `independent_rows`
says how many independent rows they are worth (Korn and Graubard 1998, "Confidence intervals for proportions with small expected
number of positive counts estimated from survey data"). Two intervals are built on it:

- `wilson_by_group` for probes. Wilson's interval (Wilson 1927) never has width 0, not even where all or none are right, and covers
  what it should with few questions (Brown, Cai and DasGupta 2001). A percentile bootstrap over groups comes to the same from 60
  groups on, and is too narrow below: with 8 groups and an accuracy of 0.8 its "95 %" covered 81 to 90 % in simulations, and this
  one's 92 to 97 %; at 0.95, where few groups have a wrong row at all, 41 to 87 % against 96 to 98 %.
- `clopper_pearson_by_group` for trait vectors: exact, and for many vectors at once.

G is the number of groups, V of parts that are measured at once. What depends on groups needs scipy, which comes with scikit-learn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
_Z = 1.959963984540054
"""The 97.5 % quantile of a normal distribution."""


def wilson(part: ArrayLike, n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's interval of a part.

    Args:
        part: The part, 0 to 1.
        n: Number of independent rows that it was counted over, above 0, whole or not.

    Returns:
        The lower and the upper ends, of the shape that `part` and `n` have together.
    """
    part, n = np.asarray(part, np.float64), np.asarray(n, np.float64)
    z2 = _Z * _Z
    middle = part * n + z2 / 2
    half = np.sqrt(z2 * (n * part * (1 - part) + z2 / 4))
    return np.maximum(0.0, (middle - half) / (n + z2)), np.minimum(1.0, (middle + half) / (n + z2))


def accuracy_text(right: int, n: int) -> str:
    """Say how many of n independent questions were right, with the 95 % interval of that part."""
    low, high = wilson(right / n, n)
    return f"right: {right:,} of {n:,} ({right / n:.1%}, 95 % interval {low:.1%} to {high:.1%})"


def wilson_by_group(right: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return Wilson's interval of the part of rows that are right, where rows of one group depend on each other.

    Args:
        right: Whether each row is right, (N,), N being 1 or more.
        group: Names the group of each row, (N,).

    Returns:
        The lower and the upper end. Where each row is a group, this is Wilson's plain interval. Else it is Wilson's for as many
        independent rows as these are worth, fewer for few groups (Student's t): as many as there are groups where all rows, or
        none, are right; 0 to 1 for a single group, which says nothing of how groups differ.
    """
    part = float(np.mean(right))
    inverse = np.unique(group, return_inverse=True)[1]
    counts = np.bincount(inverse)
    n, groups = len(inverse), len(counts)
    if groups == n:
        effective = float(n)
    elif groups == 1:
        return 0.0, 1.0
    else:
        rows = float(independent_rows(np.bincount(inverse, weights=right)[:, None], counts)[0])
        effective = (rows if 0 < part < 1 else groups) * (_Z / student_t(groups)) ** 2
    low, high = wilson(part, effective)
    return float(low), float(high)


def clopper_pearson_by_group(right: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact interval of Clopper and Pearson of the part of rows that are right, where rows of one group depend on each other.

    Args:
        right: Number of right rows, (G, V).
        n: Number of rows, (G,).

    Returns:
        The lower and the upper ends, (V,) each, for as many independent rows as these are worth, fewer for few groups (Korn and
        Graubard 1998). Where all rows are right, or none, nothing varies: then the interval is that of all rows, which unlike a
        bootstrap's has a width.
    """
    from scipy import stats

    total, part = n.sum(), right.sum(0) / n.sum()
    rows = independent_rows(right, n) * (student_t(total) / student_t(len(n))) ** 2
    rows = np.where((part > 0) & (part < 1), rows, total)
    k, beside = part * rows, (1 - LEVEL) / 2
    low = np.where(k > 0, stats.beta.ppf(beside, k, rows - k + 1), 0)
    high = np.where(k < rows, stats.beta.ppf(1 - beside, k + 1, rows - k), 1)
    return low, high


def independent_rows(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return how many independent rows would vary as much as these do from group to group, (V,), at most as many as there are."""
    part = right.sum(0) / n.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        rows: np.ndarray = np.fmin(part * (1 - part) / standard_error(right, n) ** 2, n.sum())
    return rows


def standard_error(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the standard error of the part of rows that are right, by how it varies over groups.

    The part is a ratio of two sums (Cochran 1977, "Sampling Techniques", 6.4).

    Args:
        right: Number of right rows, (G, V).
        n: Number of rows, (G,).

    Returns:
        The standard errors, (V,); infinite for a single group.
    """
    groups, part = len(n), right.sum(0) / n.sum()
    if groups < 2:
        return np.full(right.shape[1], np.inf)
    squares = ((right - n[:, None] * part) ** 2).sum(0)
    error: np.ndarray = np.sqrt(groups / (groups - 1) * squares) / n.sum()
    return error


def student_t(n: int) -> float:
    """Return the quantile of Student's distribution that bounds a 95 % interval from n observations."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, max(n - 1, 1)))
