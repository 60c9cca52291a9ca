"""How well a direction tells two groups of vectors apart: projections, Cohen's d, AUC, overlap.

All of it is arithmetic on arrays; nothing here knows of runs. n and m are the numbers of positive and of negative vectors, D their
width, V a number of directions measured at once.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata


def unit(vectors: np.ndarray) -> np.ndarray:
    """(…, D) → the same, each of length 1, float64. Raises ValueError for one that has no length, or none that is finite."""
    v = np.asarray(vectors, np.float64)
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    if not (np.isfinite(norm).all() and (norm > 0).all()):
        raise ValueError("a vector of length 0, or with values that are not finite, has no direction")
    return v / norm


def projections(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(n, D) on unit vectors (V, D) → x·v, (n, V) float64."""
    return np.asarray(x, np.float64) @ np.asarray(units, np.float64).T


def cosines(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(n, D) on unit vectors (V, D) → x·v / ‖x‖, (n, V); 0 for an x of length 0."""
    norm = np.linalg.norm(np.asarray(x, np.float64), axis=1, keepdims=True)
    return projections(x, units) / np.where(norm > 0, norm, 1)


def orient(units: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Directions (V, D), turned about where the positive vectors' mean projects lower than the negative ones'."""
    gap = projections((pos.mean(0, dtype=np.float64) - neg.mean(0, dtype=np.float64))[None], units)[0]
    return np.where(gap < 0, -1.0, 1.0)[:, None] * units


def midpoints(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Projections (n, V) and (m, V) → half way between the two means, (V,)."""
    found: np.ndarray = (pos.mean(0) + neg.mean(0)) / 2
    return found


def on_correct_side(pos: np.ndarray, neg: np.ndarray, midpoint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which projections are on their side of the midpoint (V,): positive ones above it, negative ones not. (n, V), (m, V) bool."""
    return pos > midpoint, neg <= midpoint


def accuracy(pos: np.ndarray, neg: np.ndarray, midpoint: np.ndarray) -> np.ndarray:
    """Part of all projections, (n, V) and (m, V), on their side of the midpoint, (V,)."""
    found: np.ndarray = np.concatenate(on_correct_side(pos, neg, midpoint)).mean(0)
    return found


def cohens_d(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """(n, V), (m, V) → the means' difference over the pooled standard deviation, (V,): (x̄ - ȳ) / s with
    s² = ((n-1)s²ₓ + (m-1)s²ᵧ) / (n+m-2) (Cohen 1988, "Statistical Power Analysis", 2.5.1). Needs three values or more.
    """
    n, m = len(pos), len(neg)
    squares = ((pos - pos.mean(0)) ** 2).sum(0) + ((neg - neg.mean(0)) ** 2).sum(0)
    return standardize(pos.mean(0) - neg.mean(0), squares / (n + m - 2))


def standardize(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """A difference of means in standard deviations: 0 where there is neither, infinite where only the deviation is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = difference / np.sqrt(variance)
    return np.where((difference == 0) & (variance == 0), 0.0, found)


def auc(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """(n, V), (m, V) → the probability that one of the first is larger than one of the second, ties counting half, (V,): the
    Mann-Whitney statistic over n·m (Hanley and McNeil 1982).
    """
    n, m = len(pos), len(neg)
    ranks = rankdata(np.concatenate([pos, neg]), axis=0)[:n].sum(0)
    return (ranks - n * (n + 1) / 2) / (n * m)


def overlap(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """(n, V), (m, V) → the common area of two normal densities with their means and standard deviations, (V,), 0 to 1 (Inman and
    Bradley 1989, "The overlapping coefficient as a measure of agreement between probability distributions").

    The densities cross where they are equal, at two points, of which the narrower lies above the wider between them; with equal
    deviations s they cross half way, and the area is 2Φ(-|x̄ - ȳ| / 2s).
    """
    return np.array([_overlap(*values) for values in zip(pos.mean(0), _std(pos), neg.mean(0), _std(neg), strict=True)])


def _std(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x.std(0, ddof=1) if len(x) > 1 else np.zeros(x.shape[1])
    return found


def _overlap(mean: float, std: float, other_mean: float, other_std: float) -> float:
    if std > other_std:
        mean, std, other_mean, other_std = other_mean, other_std, mean, std
    if std == 0:
        return float(mean == other_mean and other_std == 0)
    if other_std - std <= 1e-9 * other_std:
        return float(2 * ndtr(-abs(mean - other_mean) / (2 * std)))
    # (x - mean)²/2std² + ln std = (x - other_mean)²/2other_std² + ln other_std, as a x² + b x + c = 0
    a = 1 / std**2 - 1 / other_std**2
    b = -2 * (mean / std**2 - other_mean / other_std**2)
    c = (mean / std) ** 2 - (other_mean / other_std) ** 2 + 2 * np.log(std / other_std)
    middle, half = -b / (2 * a), np.sqrt(max(b * b - 4 * a * c, 0)) / (2 * a)
    inside = [
        ndtr((middle + half - mu) / sigma) - ndtr((middle - half - mu) / sigma)
        for mu, sigma in ((mean, std), (other_mean, other_std))
    ]
    return float(np.clip(1 - inside[0] + inside[1], 0, 1))
