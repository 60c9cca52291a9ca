"""Measures of separation, against their definitions and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from capture.traits import separation


def two(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((17, 3)) * 2 + 1, rng.standard_normal((11, 3))


def test_cohens_d_is_the_t_statistic_less_the_counts() -> None:
    pos, neg = two()
    t = stats.ttest_ind(pos, neg, equal_var=True).statistic  # t = d / sqrt(1/n + 1/m), by the pooled deviation
    np.testing.assert_allclose(separation.cohens_d(pos, neg), t * np.sqrt(1 / 17 + 1 / 11))
    by_hand = (pos[:, 0].mean() - neg[:, 0].mean()) / np.sqrt(
        (16 * pos[:, 0].var(ddof=1) + 10 * neg[:, 0].var(ddof=1)) / 26
    )
    assert separation.cohens_d(pos, neg)[0] == pytest.approx(by_hand)
    flat = np.ones((3, 1))
    assert separation.cohens_d(flat, flat)[0] == 0 and separation.cohens_d(2 * flat, flat)[0] == np.inf


def test_auc_is_scikit_learns_ties_included() -> None:
    pos, neg = (np.round(x) for x in two(3))
    for i, value in enumerate(separation.auc(pos, neg)):
        assert value == pytest.approx(
            roc_auc_score(np.repeat([1, 0], [17, 11]), np.concatenate([pos[:, i], neg[:, i]]))
        )


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.5, 1.0), (0.0, 3.0), (2.0, 0.2), (-4.0, 1.0001), (40.0, 2.0)])
def test_overlap_is_the_area_under_both_densities(mean: float, std: float) -> None:
    base = np.array([-1.0, 1.0]) / np.sqrt(2)  # of mean 0 and deviation 1
    found = separation.overlap((mean + std * base)[:, None], base[:, None])[0]
    grid = np.linspace(-50, 60, 1_100_001)
    area = integrate.trapezoid(np.minimum(stats.norm.pdf(grid, mean, std), stats.norm.pdf(grid)), grid)
    assert found == pytest.approx(area, abs=1e-6)


def test_accuracy_cosines_and_midpoint_by_hand() -> None:
    pos, neg = np.array([[3.0, 4.0], [6.0, 8.0]]), np.array([[0.0, 2.0], [8.0, 6.0]])
    v = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(separation.cosines(pos, v)[:, 0], [0.6, 0.6])
    p, q = separation.projections(pos, v), separation.projections(neg, v)
    assert separation.midpoints(p, q)[0] == (4.5 + 4) / 2
    assert separation.accuracy(p, q, separation.midpoints(p, q))[0] == 0.5
    assert (separation.orient(-v, pos, neg) == v).all() and (separation.orient(v, pos, neg) == v).all()
    assert separation.cosines(np.zeros((1, 2)), v)[0] == 0
