"""95 % intervals of what is computed over tokens, by leaving out one group of examples at a time.

Tokens of one text depend on each other, so that it is examples which vary independently. The delete-a-group jackknife for groups of
unequal size (Busing, Meijer and Van der Leeden 1999, "Delete-m jackknife for unequal m") says how far a number would move with other
examples. It is centred at the number itself: what it tells is spread, not bias.
"""

from __future__ import annotations

import numpy as np

from warehouse.analysis.intervals import student_t

GROUPS = 24
"""The most groups that examples are put into: more narrow an interval by little (Student's t) and cost as many times the work."""
_NEAR_ONE = 1 - 1e-7


def interval(
    full: np.ndarray, left_out: np.ndarray, sizes: np.ndarray, correlation: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of 95 % intervals.

    Args:
        full: What was computed over all tokens, of any shape.
        left_out: The same without each group, (G, *shape).
        sizes: How many tokens each group has, (G,).
        correlation: Whether it is a correlation, from -1 to 1: then the interval is made on Fisher's scale, atanh, where its spread does
            not depend on its size, and never leaves that range.

    Returns:
        The lower and upper ends; NaN where there are fewer than two groups, or a value is NaN.
    """
    groups = len(sizes)
    if groups < 2:
        nothing = np.full(np.shape(full), np.nan)
        return nothing, nothing.copy()
    z, z_left = np.asarray(full, np.float64), np.asarray(left_out, np.float64)
    if correlation:
        z, z_left = (np.arctanh(np.clip(v, -_NEAR_ONE, _NEAR_ONE)) for v in (z, z_left))
    h = (sizes.sum() / sizes).reshape(-1, *[1] * z.ndim)
    pseudo = h * z - (h - 1) * z_left
    middle = groups * z - ((1 - 1 / h) * z_left).sum(0)
    half = student_t(groups) * np.sqrt(((pseudo - middle) ** 2 / (h - 1)).mean(0))
    low, high = z - half, z + half
    if correlation:
        low, high = np.tanh(low), np.tanh(high)
    return np.fmin(low, full), np.fmax(high, full)
