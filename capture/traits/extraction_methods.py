"""Methods that turn activations into a direction, one function each.

Each takes the positive responses' vectors (n, D) and the negative ones' (m, D), and returns one vector (D,), float64, at the length
that the method gives it. `measure` normalises it, turns it towards the positive side, and measures it.

    mean_diff   the difference of the means
    probe       the coefficients of a logistic regression
    ica         the independent component that tells the two apart best
    gradient    where gradient ascent on the gap between the means arrives: the direction of mean_diff
    random      a Gaussian direction: what chance gives
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from capture.traits import separation

PROBE_C = 0.1
"""Inverse strength of the probe's L2 penalty, on standardised vectors; with a weaker penalty it fits noise where n is below D."""
ICA_COMPONENTS = 10
"""Largest number of components that FastICA looks for; see `ica_components`."""
STEPS = {"probe": 1000, "ica": 500, "gradient": 200}
"""Largest number of steps of the iterative methods; see `fit`."""


def mean_diff(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the difference of the means, mean(pos) - mean(neg).

    Marks and Tegmark 2023, "The Geometry of Truth"; Chen et al. 2025, "Persona Vectors".

    Args:
        pos: (n, D).
        neg: (m, D).
        seed: Unused; all methods take one.

    Returns:
        (D,).
    """
    difference: np.ndarray = pos.mean(0, dtype=np.float64) - neg.mean(0, dtype=np.float64)
    return difference


def probe(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the normal of a logistic regression's boundary.

    It is w/s, where w minimises the log-loss of the standardised vectors (x - mean)/s plus ‖w‖²/2C, with C = `PROBE_C`
    (scikit-learn's LogisticRegression). Dividing by s, the deviation of each dimension, gives the coefficients of the vectors
    as they are.

    Args:
        pos: (n, D).
        neg: (m, D).
        seed: Of the solver.

    Returns:
        (D,).
    """
    from sklearn.linear_model import LogisticRegression

    x, y = _stack_groups(pos, neg)
    scale = x.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(C=PROBE_C, max_iter=STEPS["probe"], random_state=seed)
    model.fit((x - x.mean(0)) / scale, y)
    normal: np.ndarray = model.coef_[0] / scale
    return normal


def ica(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the mixing column of the independent component with the largest |Cohen's d| between the groups.

    FastICA (Hyvärinen and Oja 2000; scikit-learn's, parallel, logcosh) models vectors as x = A s + mean with independent sources
    s, on the first `ica_components` principal components. We take the *column* of A, and not the row of its inverse that reads s
    off x: moving along the column changes that source and no other, which is what a vector added to the stream has to do. The row
    also cancels what correlates with the source, and leans on dimensions of little variance (Haufe et al. 2014, "On the
    interpretation of weight vectors of linear models"). Where FastICA has not converged after its `STEPS`, the last step's
    components are used: they are still a rotation of the principal components.

    Args:
        pos: (n, D).
        neg: (m, D).
        seed: Of FastICA's start.

    Returns:
        (D,); zeros where the vectors do not vary.
    """
    from sklearn.decomposition import FastICA

    x, y = _stack_groups(pos, neg)
    n = ica_components(x)
    if n == 0:
        return np.zeros(x.shape[1])
    model = FastICA(n, whiten="unit-variance", whiten_solver="svd", max_iter=STEPS["ica"], tol=1e-3, random_state=seed)
    sources = model.fit_transform(x)
    d = separation.cohens_d(sources[y], sources[~y])
    best = int(np.abs(d).argmax())
    column: np.ndarray = model.mixing_[:, best] * np.sign(d[best])
    return column


def ica_components(x: np.ndarray) -> int:
    """Return how many components FastICA looks for in n vectors: √(n/5), from 2 to `ICA_COMPONENTS`, at most their rank.

    Where n is not several times the squared number, FastICA finds spikes of its own making (Särelä and Vigário 2003, "Overlearning
    in marginal distribution-based ICA"). The 150 responses that a trait usually has give 5 components.

    Args:
        x: (n, D).

    Returns:
        The number of components; 0 where the vectors do not vary.
    """
    number = min(max(2, int((len(x) / 5) ** 0.5)), ICA_COMPONENTS)
    return min(number, int(np.linalg.matrix_rank(x - x.mean(0))))


def gradient(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Maximise the gap between the mean projections, J(v) = v·(mean(pos) - mean(neg)), over unit vectors by gradient ascent.

    From a random unit vector, v ← (v + g/‖g‖)/‖…‖ with g the gradient of J, until v no longer changes. On the unit sphere a linear
    J has one maximum, g/‖g‖, the normalised difference of means (Cauchy and Schwarz): the direction is that of `mean_diff`.

    Args:
        pos: (n, D).
        neg: (m, D).
        seed: Of the start.

    Returns:
        (D,).
    """
    g = mean_diff(pos, neg)
    if not g.any():
        return g
    step = separation.unit(g)
    v = separation.unit(np.random.default_rng(seed).standard_normal(len(g)))
    for _ in range(STEPS["gradient"]):  # each step halves the angle to g: about fifty are enough
        previous, v = v, separation.unit(v + step)
        if np.abs(v - previous).max() < 1e-12:
            return v
    from sklearn.exceptions import ConvergenceWarning

    warnings.warn("gradient ascent did not converge", ConvergenceWarning, stacklevel=2)
    return v


def random(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a direction from a standard normal, (D,); only `measure` lets it know which side is positive."""
    return random_directions(pos.shape[1], 1, seed)[0]


def random_directions(width: int, draws: int, seed: int) -> np.ndarray:
    """Draw unit vectors uniformly over the sphere: (draws, width)."""
    return separation.unit(np.random.default_rng((seed, 7)).standard_normal((draws, width)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "mean_diff": mean_diff,
    "probe": probe,
    "ica": ica,
    "gradient": gradient,
    "random": random,
}


def fit(method: str, pos: np.ndarray, neg: np.ndarray, seed: int) -> tuple[np.ndarray, bool | None]:
    """Run a method, and note whether it converged.

    All warnings but that of convergence are passed on.

    Args:
        method: A key of `METHODS`.
        pos: (n, D).
        neg: (m, D).
        seed: Of whatever the method draws.

    Returns:
        The vector (D,) at the length that the method gives it, and whether the method converged within its `STEPS`; None for
        methods that take no steps.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vector = METHODS[method](pos, neg, seed)
    # compared by name, as mean_diff alone should not have to import scikit-learn
    unconverged = [w for w in caught if w.category.__name__ == "ConvergenceWarning"]
    for w in caught:
        if w not in unconverged:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return vector, None if method not in STEPS else not unconverged


class MeasuredVector(NamedTuple):
    """A trait's vector with the numbers that the table `trait_vectors` keeps of it."""

    vector: np.ndarray
    """(D,) float32, of length 1, towards the positive side."""
    norm: float
    """Length of the vector as the method gave it."""
    gap: float
    """Distance between the groups' mean projections."""
    midpoint: float
    """Half way between those means."""
    train_accuracy: float
    effect_size: float
    """Cohen's d of the cosines."""


def measure(raw: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> MeasuredVector:
    """Normalise a method's vector, turn it towards the positive side, and measure it on the groups that it was made from.

    Args:
        raw: (D,), as `fit` returns it.
        pos: (n, D).
        neg: (m, D).

    Returns:
        The unit vector and its numbers.

    Raises:
        ValueError: The vector has length 0 or is not finite.
    """
    v = separation.orient(separation.unit(raw)[None], pos, neg).astype(np.float32)
    p, q = separation.projections(pos, v), separation.projections(neg, v)
    midpoint = separation.midpoints(p, q)
    d = separation.cohens_d(separation.cosines(pos, v), separation.cosines(neg, v))
    return MeasuredVector(
        v[0],
        float(np.linalg.norm(raw)),
        float((p.mean(0) - q.mean(0))[0]),
        float(midpoint[0]),
        float(separation.accuracy(p, q, midpoint)[0]),
        float(d[0]),
    )


def _stack_groups(pos: np.ndarray, neg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all vectors, (n + m, D) float64, and which of them are positive, (n + m,)."""
    x = np.concatenate([pos, neg]).astype(np.float64)
    return x, np.arange(len(x)) < len(pos)
