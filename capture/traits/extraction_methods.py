"""From activations to a direction: each function takes the positive responses' vectors (n, D) and the negative ones' (m, D), and
gives one vector (D,), float64, as its method makes it: `made` brings it to unit length, towards the positive side, and measures it.

    mean_diff   the difference of the means
    probe       the coefficients of a logistic regression
    ica         the independent component that tells the two apart best
    gradient    what climbing the gap between the means arrives at: the direction of mean_diff
    random      a Gaussian direction: what there is to be had by chance
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from capture.traits import separation

PROBE_C = 0.1
"""Inverse strength of the probe's L2 penalty, on standardised vectors: weaker ones only fit noise where n is below D."""
ICA_COMPONENTS = 10
"""Most components that FastICA looks for: see `ica_components`."""
STEPS = {"probe": 1000, "ica": 500, "gradient": 200}
"""Most steps of the methods that go on until nothing changes any more: see `fit`."""


def mean_diff(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """mean(pos) - mean(neg), (D,): the difference of means (Marks and Tegmark 2023, "The Geometry of Truth"; Chen et al. 2025,
    "Persona Vectors").
    """
    found: np.ndarray = pos.mean(0, dtype=np.float64) - neg.mean(0, dtype=np.float64)
    return found


def probe(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """The normal of a logistic regression's boundary, (D,): w/s, where w minimises the log-loss of the standardised vectors
    (x - mean)/s plus ‖w‖²/2C, with `C` = 0.1 (scikit-learn's LogisticRegression). Divided by s, the deviation of each
    dimension, the coefficients are those of the vectors as they are.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = _stack_groups(pos, neg)
    scale = x.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(C=PROBE_C, max_iter=STEPS["probe"], random_state=seed)
    model.fit((x - x.mean(0)) / scale, y)
    found: np.ndarray = model.coef_[0] / scale
    return found


def ica(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mixing column of the independent component with the largest |Cohen's d| between the two groups, (D,).

    FastICA (Hyvärinen and Oja 2000; scikit-learn's, parallel, logcosh) models vectors as x = A s + mean with independent sources
    s, on the first `ica_components` principal components. The *column* of A, and not the row of its inverse that reads s off x:
    moving along it changes that source and no other, which is what a vector that is added to the stream has to do, while the
    row also cancels what correlates with the source, and leans on dimensions of little variance (Haufe et al. 2014, "On the
    interpretation of weight vectors of linear models"). Where it has not converged after its `STEPS` the last step's components are
    taken: they are a rotation of the principal components all the same.
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
    found: np.ndarray = model.mixing_[:, best] * np.sign(d[best])
    return found


def ica_components(x: np.ndarray) -> int:
    """How many components FastICA looks for in n vectors (n, D): √(n/5), from 2 to `ICA_COMPONENTS`, and no more than their rank.

    With n below some multiples of the squared number it finds spikes of its own making (Särelä and Vigário 2003, "Overlearning in
    marginal distribution-based ICA"): 5 components for the 150 responses that a trait usually has.
    """
    wanted = min(max(2, int((len(x) / 5) ** 0.5)), ICA_COMPONENTS)
    return min(wanted, int(np.linalg.matrix_rank(x - x.mean(0))))


def gradient(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """Gradient ascent on the gap between the mean projections, J(v) = v·(mean(pos) - mean(neg)), over unit vectors, (D,).

    From a random unit vector, v ← (v + g/‖g‖)/‖…‖ with g the gradient of J, until v stays. On the unit sphere a linear J has one
    maximum, g/‖g‖, the normalised difference of means (Cauchy and Schwarz): this method's direction is that of `mean_diff`.
    """
    g = mean_diff(pos, neg)
    if not g.any():
        return g
    step = separation.unit(g)
    v = separation.unit(np.random.default_rng(seed).standard_normal(len(g)))
    for _ in range(STEPS["gradient"]):  # an angle a to g becomes a/2 in each, so that some fifty are enough
        previous, v = v, separation.unit(v + step)
        if np.abs(v - previous).max() < 1e-12:
            return v
    from sklearn.exceptions import ConvergenceWarning

    warnings.warn("gradient ascent did not converge", ConvergenceWarning, stacklevel=2)
    return v


def random(pos: np.ndarray, neg: np.ndarray, seed: int = 0) -> np.ndarray:
    """A direction drawn from a standard normal, (D,): it knows nothing of the groups but, once `made`, which side is positive."""
    return random_directions(pos.shape[1], 1, seed)[0]


def random_directions(width: int, draws: int, seed: int) -> np.ndarray:
    """(draws, width) unit vectors, uniform over the sphere."""
    return separation.unit(np.random.default_rng((seed, 7)).standard_normal((draws, width)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "mean_diff": mean_diff,
    "probe": probe,
    "ica": ica,
    "gradient": gradient,
    "random": random,
}


def fit(method: str, pos: np.ndarray, neg: np.ndarray, seed: int) -> tuple[np.ndarray, bool | None]:
    """A method's vector (D,) as it makes it, and whether it converged within its `STEPS`; None: it takes no steps. All other warnings
    than that of convergence are passed on.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vector = METHODS[method](pos, neg, seed)
    # by name: importing scikit-learn for it would cost what mean_diff alone does not need
    late = [w for w in caught if w.category.__name__ == "ConvergenceWarning"]
    for w in caught:
        if w not in late:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return vector, None if method not in STEPS else not late


class MeasuredVector(NamedTuple):
    """A trait's vector as the table `trait_vectors` has it."""

    vector: np.ndarray
    """(D,) float32, of length 1, towards the positive side."""
    norm: float
    """The vector's length as the method gave it."""
    gap: float
    """Distance between the groups' mean projections."""
    midpoint: float
    """Half way between them."""
    train_accuracy: float
    effect_size: float
    """Cohen's d of the cosines."""


def measure(raw: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> MeasuredVector:
    """A method's vector (D,), normalised, turned towards `pos` (n, D), and measured. Raises ValueError for one without direction."""
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
    """(n + m, D) float64, and which of them are positive."""
    x = np.concatenate([pos, neg]).astype(np.float64)
    return x, np.arange(len(x)) < len(pos)
