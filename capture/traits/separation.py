"""How well a direction separates two groups of vectors: projections, Cohen's d, AUC, overlap.

Everything is arithmetic on arrays; nothing here knows about runs. n and m are the numbers of positive and negative vectors, D is
their width, V the number of directions measured at once.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (…, D) to length 1, float64; raises ValueError for a length that is 0 or not finite."""
    v = np.asarray(vectors, np.float64)
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    if not (np.isfinite(norm).all() and (norm > 0).all()):
        raise ValueError("a vector of length 0, or with values that are not finite, has no direction")
    return v / norm


def projections(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Project x (n, D) on unit vectors (V, D): x·v, (n, V) float64."""
    return np.asarray(x, np.float64) @ np.asarray(units, np.float64).T


def cosines(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Compute the cosines of x (n, D) with unit vectors (V, D): x·v / ‖x‖, (n, V); 0 for an x of length 0."""
    norm = np.linalg.norm(np.asarray(x, np.float64), axis=1, keepdims=True)
    return projections(x, units) / np.where(norm > 0, norm, 1)


def orient(units: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Reverse those directions (V, D) on which the positive vectors' mean projects lower than the negative ones'."""
    gap = projections((pos.mean(0, dtype=np.float64) - neg.mean(0, dtype=np.float64))[None], units)[0]
    return np.where(gap < 0, -1.0, 1.0)[:, None] * units


def midpoints(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Return the points half way between the mean projections of (n, V) and (m, V): (V,)."""
    middle: np.ndarray = (pos.mean(0) + neg.mean(0)) / 2
    return middle


def on_correct_side(pos: np.ndarray, neg: np.ndarray, midpoint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which projections lie on their side of the midpoint (V,), positive ones above it: (n, V) and (m, V) bool."""
    return pos > midpoint, neg <= midpoint


def accuracy(pos: np.ndarray, neg: np.ndarray, midpoint: np.ndarray) -> np.ndarray:
    """Return the fraction of all projections, (n, V) and (m, V), on their side of the midpoint: (V,)."""
    fraction: np.ndarray = np.concatenate(on_correct_side(pos, neg, midpoint)).mean(0)
    return fraction


def cohens_d(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Compute Cohen's d: the difference of the means over the pooled standard deviation.

    (x̄ - ȳ) / s with s² = ((n-1)s²ₓ + (m-1)s²ᵧ) / (n+m-2) (Cohen 1988, "Statistical Power Analysis", 2.5.1). Needs three
    values or more.

    Args:
        pos: (n, V).
        neg: (m, V).

    Returns:
        (V,).
    """
    n, m = len(pos), len(neg)
    squares = ((pos - pos.mean(0)) ** 2).sum(0) + ((neg - neg.mean(0)) ** 2).sum(0)
    return standardize(pos.mean(0) - neg.mean(0), squares / (n + m - 2))


def standardize(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Divide a difference of means by the standard deviation: 0 where both are 0, infinite where only the latter is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = difference / np.sqrt(variance)
    return np.where((difference == 0) & (variance == 0), 0.0, quotient)


def auc(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Compute the probability that a positive value is larger than a negative one, ties counting half.

    It is the Mann-Whitney statistic over n·m (Hanley and McNeil 1982).

    Args:
        pos: (n, V).
        neg: (m, V).

    Returns:
        (V,), 0 to 1.
    """
    n, m = len(pos), len(neg)
    ranks = rankdata(np.concatenate([pos, neg]), axis=0)[:n].sum(0)
    return (ranks - n * (n + 1) / 2) / (n * m)


def overlap(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Compute the common area of two normal densities with the groups' means and standard deviations.

    Inman and Bradley 1989, "The overlapping coefficient as a measure of agreement between probability distributions".
    The densities cross at two points, and the narrower one lies above the wider between them; with equal deviations s they cross
    half way, and the area is 2Φ(-|x̄ - ȳ| / 2s).

    Args:
        pos: (n, V).
        neg: (m, V).

    Returns:
        (V,), 0 to 1.
    """
    return np.array([_overlap(*values) for values in zip(pos.mean(0), _std(pos), neg.mean(0), _std(neg), strict=True)])


def _std(x: np.ndarray) -> np.ndarray:
    deviation: np.ndarray = x.std(0, ddof=1) if len(x) > 1 else np.zeros(x.shape[1])
    return deviation


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
